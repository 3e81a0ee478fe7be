// float16, as the host's compiler has it.
#pragma once

struct __half_raw {
    unsigned short x;
};

struct __half {
    _Float16 value;
    __half() = default;
    __half(float x) : value(_Float16(x)) {}
    __half(const __half_raw &raw) : value(emu_bits<_Float16>(raw.x)) {}
    explicit __half(double x) : value(_Float16(x)) {}
    template <class T, class = std::enable_if_t<std::is_integral<T>::value>>
    explicit __half(T x) : value(_Float16(x)) {}
    operator float() const { return float(value); }
    operator __half_raw() const { return {emu_bits<unsigned short>(value)}; }
};
using half = __half;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return emu_bits<unsigned short>(x.value); }
inline __half __ushort_as_half(unsigned short x) { return __half_raw{x}; }
