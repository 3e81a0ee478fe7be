// The threads of a block whose kernel waits for all of them: each has a stack of its own, and one runs at a time.
#include <cstdlib>
#include <sys/mman.h>

#include "engine.h"

// Keeps the registers that a function must keep, and goes on with another stack.
extern "C" void emu_switch(void **leave, void *enter);
asm(R"(
    .text
    .globl emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace {

constexpr size_t STACK = 64 << 10, MOST = 1024;

struct Fiber {
    void *stack;
    bool finished;
};

Fiber fibers[MOST];
char *const stacks = static_cast<char *>(
    mmap(nullptr, STACK *MOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
void *scheduler;
uint64_t running;
void (*entry)(void *);
void *argument;

void begin() {
    entry(argument);
    fibers[running].finished = true;
    emu_switch(&fibers[running].stack, scheduler);
    abort();
}

uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }

}  // namespace

bool emu::in_fibers(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(stacks) < STACK * MOST; }

EXPORT void emu_barrier() { emu_switch(&fibers[running].stack, scheduler); }

// Runs all threads to the next barrier, or to their end, in an order that differs from barrier to barrier.
EXPORT void emu_run_fibers(void (*enter)(void *), void *context, uint64_t count, uint64_t choice,
                           void (*set)(uint64_t)) {
    entry = enter;
    argument = context;
    for (uint64_t i = 0; i < count; i++) {
        void **top = reinterpret_cast<void **>(stacks + STACK * (i + 1)) - 2;
        *--top = nullptr;  // where begin would return to; also aligns its stack as after a call
        *--top = reinterpret_cast<void *>(begin);
        fibers[i] = {top - 6, false};
    }
    for (bool any = true; any;) {
        any = false;
        choice = choice * 6364136223846793005u + 1442695040888963407u;
        uint64_t step = (choice >> 33) % count | 1, start = (choice >> 13) % count;
        while (gcd(step, count) != 1) step += 2;
        for (uint64_t i = 0; i < count; i++) {
            running = (start + i * step) % count;
            if (fibers[running].finished) continue;
            any = true;
            set(running);
            emu_switch(&scheduler, fibers[running].stack);
        }
    }
}
