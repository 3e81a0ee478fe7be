// bfloat16: the upper half of a float32, rounded to nearest.
#pragma once

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) {
        unsigned wide = __float_as_uint(x);
        bits = (unsigned short)(std::isnan(x) ? wide >> 16 | 64 : (wide + 0x7FFF + (wide >> 16 & 1)) >> 16);
    }
    operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) {
    __nv_bfloat16 result;
    result.bits = x;
    return result;
}
