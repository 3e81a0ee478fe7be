"""The look of the pages: all colours are variables, of which the dark scheme has its own."""

SERIES = 8  # colours for curves: --s1 to --s8

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f24; --soft: #59626e; --line: #d5d9df;
  --right: 31 111 180; --wrong: 212 92 10;
  --s1: #1f6fb4; --s2: #b8500a; --s3: #1d7f4e; --s4: #8a3fa8;
  --s5: #b02a48; --s6: #6b6200; --s7: #0a7684; --s8: #5a5a66; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e8eb; --soft: #9ea8b4; --line: #353c45;
  --right: 84 160 235; --wrong: 240 140 60;
  --s1: #6cb6ff; --s2: #f69d50; --s3: #6bc98f; --s4: #d39df0;
  --s5: #ff8fa3; --s6: #d8cf5e; --s7: #5fd0de; --s8: #b4b4c0; } }
.s1 { --c: var(--s1) } .s2 { --c: var(--s2) } .s3 { --c: var(--s3) } .s4 { --c: var(--s4) }
.s5 { --c: var(--s5) } .s6 { --c: var(--s6) } .s7 { --c: var(--s7) } .s8 { --c: var(--s8) }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
main { max-width: 70rem; margin: 0 auto; padding: 1.25rem 1rem 3rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem }
h3 { font-size: 1rem; margin: .75rem 0 .25rem }
p { margin: .4rem 0 }
.soft, figcaption { color: var(--soft) }
.big { font-size: 2.1rem; font-weight: 650; line-height: 1.2 }
.good { color: var(--s1) }
.bad { color: var(--s2); font-weight: 600 }
.columns { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.columns > * { min-width: 0 }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }

.scroll { overflow: auto; max-width: 100%; position: relative }
.long { max-height: 44rem }
.scroll:focus-visible { outline: 2px solid var(--s1) }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; position: sticky; top: 0;
  background: var(--paper); z-index: 1 }
tbody th, tfoot th, th.text, td.text { text-align: left; font-weight: 500 }
td.text { font-weight: 400 }
tbody th, td.text { max-width: 22rem; overflow: hidden; text-overflow: ellipsis }
tfoot th, tfoot td { font-weight: 650; border-bottom: 0 }
.facts { display: grid; grid-template-columns: fit-content(45%) 1fr; font-size: .87rem; margin: .4rem 0 }
.facts dt { color: var(--soft); padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line) }
.facts dd { margin: 0; padding: .2rem 0; border-bottom: 1px solid var(--line) }
.confusion th, .confusion td { padding: .2rem .4rem }
.confusion tbody th, .confusion thead th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1 }
.confusion thead th:first-child { z-index: 2 }
.confusion .corner span { display: block; text-align: left }
.confusion thead th { text-align: center }
.confusion .tall { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 9rem; overflow: hidden; text-overflow: ellipsis }
.confusion td { border: 1px solid var(--line); min-width: 2.1rem; text-align: center }
.hit { background: rgb(var(--right) / var(--a)) }
.miss { background: rgb(var(--wrong) / var(--a)) }
.matrix { width: min(100%, 30rem); height: auto; border: 1px solid var(--line); image-rendering: pixelated;
  display: block }
.bar { display: inline-block; width: 5rem; height: .55rem; margin-right: .5rem; background: var(--line) }
.bar span { display: block; height: 100%; background: var(--s1) }

.chart { display: block; width: 100%; max-width: 32rem; height: auto; overflow: visible }
.chart text { fill: var(--soft); font: 11px system-ui, sans-serif }
.chart .grid { stroke: var(--line); stroke-width: 1 }
.curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round }
.dashed .curve { stroke-dasharray: 5 4 }
.dot { fill: var(--c); stroke: transparent; stroke-width: 9 }
.keys { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0; padding: 0; list-style: none;
  font-size: .85rem }
.keys svg { width: 1.6rem; height: .6rem; margin-right: .35rem }
.scale { display: block; width: 9rem; height: 1rem }
.scale .within { fill: var(--line) }
.scale .limit { stroke: var(--ink); stroke-width: 2 }
.scale .error { fill: var(--c) }

.pictures { display: flex; flex-wrap: wrap; gap: .9rem .7rem }
.pictures figure { margin: 0; width: 6rem; font-size: .78rem; line-height: 1.3 }
.pictures img { display: block; width: 6rem; height: auto; max-height: 9rem; object-fit: contain;
  margin-bottom: .25rem }
.pictures strong { color: var(--ink); font-weight: 600 }
.pixels { image-rendering: pixelated }
.filters img { width: 3.2rem; margin: 0; image-rendering: pixelated }
details { margin: .75rem 0 }
details > summary { cursor: pointer; color: var(--soft) }
@media (max-width: 30rem) {
  .bar { width: 2.5rem }
  tbody th, td.text { max-width: 11rem }
}
@media print { .long { max-height: none } }
"""
