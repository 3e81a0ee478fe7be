// In the place of CuPy's header: complex numbers are not emulated, and theirs takes longer to compile than a kernel.
#pragma once

template <class T>
struct complex;
