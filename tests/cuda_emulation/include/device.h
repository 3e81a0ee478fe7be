// What a kernel finds when the host's compiler compiles it: CUDA's words, and the loop over its threads.
#pragma once

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#define __CUDACC__ 1
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 9
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __shared__ static __attribute__((section("emu_shared")))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct double2 {
    double x, y;
};
struct int2 {
    int x, y;
};
struct uint2 {
    unsigned x, y;
};

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

template <class A, class B>
constexpr typename std::common_type<A, B>::type max(A a, B b) {
    return a < b ? b : a;
}
template <class A, class B>
constexpr typename std::common_type<A, B>::type min(A a, B b) {
    return b < a ? b : a;
}

template <class To, class From>
inline To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __int_as_float(int x) { return emu_bits<float>(x); }
inline int __float_as_int(float x) { return emu_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return emu_bits<double>(x); }
inline long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
inline double __hiloint2double(int high, int low) {
    return emu_bits<double>((uint64_t(uint32_t(high)) << 32) | uint32_t(low));
}
inline int __double2hiint(double x) { return int(emu_bits<uint64_t>(x) >> 32); }
inline int __double2loint(double x) { return int(emu_bits<uint64_t>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)(a)*b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline void sincos(float x, float *s, float *c) { sincosf(x, s, c); }
template <class T>
inline T __ldg(const T *pointer) {
    return *pointer;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
#ifndef assert
#define assert(x) ((void)0)
#endif

// One thread runs at a time.
template <class T, class U, class F>
inline T emu_atomic(T *address, U value, F change) {
    T before = *address;
    *address = change(before, T(value));
    return before;
}
template <class T, class U>
inline T atomicAdd(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return T(x + y); });
}
template <class T, class U>
inline T atomicSub(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return T(x - y); });
}
template <class T, class U>
inline T atomicMax(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return x < y ? y : x; });
}
template <class T, class U>
inline T atomicMin(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return y < x ? y : x; });
}
template <class T, class U>
inline T atomicAnd(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return T(x & y); });
}
template <class T, class U>
inline T atomicOr(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return T(x | y); });
}
template <class T, class U>
inline T atomicXor(T *a, U v) {
    return emu_atomic(a, v, [](T x, T y) { return T(x ^ y); });
}
template <class T, class U>
inline T atomicExch(T *a, U v) {
    return emu_atomic(a, v, [](T, T y) { return y; });
}
template <class T, class U, class V>
inline T atomicCAS(T *a, U compare, V v) {
    T before = *a;
    if (before == T(compare)) *a = T(v);
    return before;
}

extern "C" char emu_shared_memory[];

extern "C" __attribute__((visibility("default"))) const char emu_module = 0;  // an address in the library

namespace emu {

constexpr char *shared = emu_shared_memory;

// Gives the numbers 0 to count - 1 in an order that a random number chooses: as they are, reversed, or by steps.
struct Order {
    uint64_t count, step, start;
    Order(uint64_t count, uint64_t choice) : count(count), step(1), start(0) {
        if (choice % 3 == 1) {
            step = count - 1;  // -1, modulo count
            start = count - 1;
        } else if (choice % 3 == 2 && count > 2) {
            step = choice / 3 % count | 1;
            while (gcd(step, count) != 1) step += 2;
            start = (choice >> 32) % count;
        }
    }
    uint64_t next() {
        uint64_t now = start;
        start += step;
        if (start >= count) start -= count;
        return now;
    }
    static uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }
};

}  // namespace emu

extern "C" void emu_run_fibers(void (*enter)(void *), void *context, uint64_t count, uint64_t choice,
                               void (*set)(uint64_t));
extern "C" void emu_barrier();
inline void __syncthreads() { emu_barrier(); }

namespace emu {

struct Kernel {
    void (*launch)(const unsigned *grid, const unsigned *block, size_t shared_bytes, void **parameters, uint64_t order);
    const size_t *sizes;
    size_t count;
};

inline void set_thread(uint64_t i) {
    threadIdx = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y),
                 unsigned(i / blockDim.x / blockDim.y)};
}

extern "C" char __start_emu_shared[] __attribute__((weak)), __stop_emu_shared[] __attribute__((weak));

template <bool fibers, auto function, class Signature = decltype(function)>
struct Launcher;

template <bool fibers, auto function, class... Arguments>
struct Launcher<fibers, function, void (*)(Arguments...)> {
    static constexpr size_t sizes[sizeof...(Arguments) + 1] = {sizeof(Arguments)..., 0};

    template <size_t... I>
    __attribute__((no_sanitize_address)) static void call(void **parameters, std::index_sequence<I...>) {
        function(*static_cast<std::remove_reference_t<Arguments> *>(parameters[I])...);
    }

    __attribute__((no_sanitize_address)) static void thread(void *parameters) {
        call(static_cast<void **>(parameters), std::index_sequence_for<Arguments...>());
    }

    __attribute__((no_sanitize_address)) static void launch(const unsigned *grid, const unsigned *block,
                                                            size_t shared_bytes, void **parameters, uint64_t choice) {
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {block[0], block[1], block[2]};
        uint64_t threads = uint64_t(block[0]) * block[1] * block[2];
        Order order(uint64_t(grid[0]) * grid[1] * grid[2], choice);
        for (uint64_t i = 0; i < order.count; i++) {
            uint64_t b = order.next();
            blockIdx = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
            memset(shared, 0xFF, shared_bytes);
            if (__start_emu_shared) memset(__start_emu_shared, 0xFF, __stop_emu_shared - __start_emu_shared);
            if (fibers) {
                emu_run_fibers(thread, parameters, threads, choice >> 8, set_thread);
                continue;
            }
            Order thread_order(threads, choice >> 8);
            for (uint64_t t = 0; t < threads; t++) {
                set_thread(thread_order.next());
                thread(parameters);
            }
        }
    }
};

}  // namespace emu

#define EMU_KERNEL(name, fibers, ...)                                                            \
    extern "C" __attribute__((visibility("default"))) const emu::Kernel emu_kernel_##name = {    \
        emu::Launcher<fibers, &__VA_ARGS__>::launch, emu::Launcher<fibers, &__VA_ARGS__>::sizes, \
        sizeof(emu::Launcher<fibers, &__VA_ARGS__>::sizes) / sizeof(size_t) - 1};
