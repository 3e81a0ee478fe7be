// cuBLAS: matrix products in column-major order, as operations of a stream. The rest reports that it is not supported.
#include <cmath>
#include <cstring>

#include "engine.h"

using namespace emu;
using Held = std::lock_guard<std::recursive_mutex>;

namespace {

constexpr int NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID = 7, EXECUTION_FAILED = 13;
constexpr int TF32_MATH = 3;
enum Type { F32 = 0, F64 = 1, F16 = 2 };
constexpr int COMPUTE_32F_FAST_TF32 = 77;

struct Handle {
    void *stream = nullptr;
    int pointer_mode = 0, math_mode = 0;  // pointers to the host
};

// The 10 bits of a mantissa that a tensor core takes.
float rounded_to_tf32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x0FFF + (bits >> 13 & 1)) & ~0x1FFFu;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

struct Matrices {
    int transposed_a, transposed_b, m, n, k;
    int64_t lda, ldb, ldc;
    bool tf32;
};

template <class In, class Out, class Sum>
void multiply(const Matrices &size, Sum alpha, const In *a, const In *b, Sum beta, Out *c) {
    // `a` as columns of m numbers, so that the inner loop runs along memory.
    std::vector<Sum> columns(size_t(size.m) * size.k), sums(size.m);
    auto value = [&](In x) { return size.tf32 ? Sum(rounded_to_tf32(float(x))) : Sum(x); };
    for (int p = 0; p < size.k; p++)
        for (int i = 0; i < size.m; i++)
            columns[size_t(p) * size.m + i] = value(size.transposed_a ? a[p + i * size.lda] : a[i + p * size.lda]);
    for (int j = 0; j < size.n; j++) {
        std::fill(sums.begin(), sums.end(), Sum(0));
        for (int p = 0; p < size.k; p++) {
            Sum factor = value(size.transposed_b ? b[j + p * size.ldb] : b[p + j * size.ldb]);
            const Sum *column = &columns[size_t(p) * size.m];
            for (int i = 0; i < size.m; i++) sums[i] += column[i] * factor;
        }
        for (int i = 0; i < size.m; i++) {
            Out &target = c[i + j * size.ldc];
            // With beta 0 the old content does not count, whatever it is.
            target = Out(alpha * sums[i] + (beta == Sum(0) ? Sum(0) : beta * Sum(target)));
        }
    }
}

// Gives the matrices of a batch: each at a step from the one before, or by an array of pointers on the device.
template <class T>
struct Batch {
    T *first;
    int64_t step;
    T *const *pointers = nullptr;

    T *operator[](int i) const { return pointers ? pointers[i] : first + i * step; }
    const void *memory() const { return pointers ? static_cast<const void *>(pointers) : first; }
};

template <class In, class Out, class Sum>
int gemm(Handle *handle, Matrices size, const Sum *alpha, Batch<const In> a, Batch<const In> b, const Sum *beta,
         Batch<Out> c, int count) {
    Held held(lock);
    if (error() != OK) return EXECUTION_FAILED;
    if (size.m < 0 || size.n < 0 || size.k < 0 || count < 0) return INVALID;
    if (size.lda < std::max(1, size.transposed_a ? size.k : size.m) ||
        size.ldb < std::max(1, size.transposed_b ? size.n : size.k) || size.ldc < std::max(1, size.m))
        return INVALID;
    if (!size.m || !size.n || !count) return OK;
    counts.products++;
    bool on_host = handle->pointer_mode == 0;
    Sum alpha_now = on_host ? *alpha : Sum(0), beta_now = on_host ? *beta : Sum(0);
    Stream *stream = stream_of(handle->stream);
    for (const void *pointer : {a.memory(), b.memory(), c.memory()})
        if (Block *block = block_of(pointer); !block || block->device != stream->device)
            if (size.k || pointer == c.memory()) fail(ILLEGAL_ADDRESS, "a matrix product was given memory that is not its device's");
    give(stream, [=] {
        const void *address = nullptr;
        bool well = guarded(
            [&] {
                Sum alpha_then = on_host ? alpha_now : *alpha, beta_then = on_host ? beta_now : *beta;
                for (int i = 0; i < count; i++)
                    multiply(size, alpha_then, a[i], b[i], beta_then, c[i]);
            },
            &address);
        if (!well) fail(ILLEGAL_ADDRESS, "a matrix product touched what is nobody's memory");
    });
    return error() == OK ? OK : EXECUTION_FAILED;
}

int gemm_of(Handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a, int64_t lda,
            int64_t step_a, const void *b, int type_b, int64_t ldb, int64_t step_b, const void *beta, void *c, int type_c,
            int64_t ldc, int64_t step_c, int count, int compute) {
    bool tf32 = type_a == F32 && (compute == COMPUTE_32F_FAST_TF32 || handle->math_mode == TF32_MATH);
    Matrices size{ta, tb, m, n, k, lda, ldb, ldc, tf32};
    auto call = [&](auto in, auto out, auto sum) {
        using In = decltype(in);
        using Out = decltype(out);
        using Sum = decltype(sum);
        return gemm(handle, size, static_cast<const Sum *>(alpha), Batch<const In>{static_cast<const In *>(a), step_a},
                    Batch<const In>{static_cast<const In *>(b), step_b}, static_cast<const Sum *>(beta),
                    Batch<Out>{static_cast<Out *>(c), step_c}, count);
    };
    if (type_a != type_b) return INVALID;
    if (type_a == F64 && type_c == F64) return call(double(), double(), double());
    if (type_a == F32 && type_c == F32) return call(float(), float(), float());
    if (type_a == F16 && type_c == F16) return call(_Float16(), _Float16(), float());
    if (type_a == F16 && type_c == F32) return call(_Float16(), float(), float());
    return 15;
}

}  // namespace

EXPORT int cublasCreate_v2(Handle **handle) { *handle = new Handle; return OK; }
EXPORT int cublasDestroy_v2(Handle *handle) { delete handle; return OK; }
EXPORT int cublasGetVersion_v2(Handle *, int *version) { *version = 120900; return OK; }
EXPORT int cublasSetStream_v2(Handle *handle, void *stream) { handle->stream = stream; return OK; }
EXPORT int cublasGetStream_v2(Handle *handle, void **stream) { *stream = handle->stream; return OK; }
EXPORT int cublasSetPointerMode_v2(Handle *handle, int mode) { handle->pointer_mode = mode; return OK; }
EXPORT int cublasGetPointerMode_v2(Handle *handle, int *mode) { *mode = handle->pointer_mode; return OK; }
EXPORT int cublasSetMathMode(Handle *handle, int mode) { handle->math_mode = mode; return OK; }
EXPORT int cublasGetMathMode(Handle *handle, int *mode) { *mode = handle->math_mode; return OK; }

#define GEMM(letter, type, number)                                                                                     \
    EXPORT int cublas##letter##gemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const type *alpha,             \
                                       const type *a, int lda, const type *b, int ldb, const type *beta, type *c,     \
                                       int ldc) {                                                                      \
        return gemm_of(h, ta, tb, m, n, k, alpha, a, number, lda, 0, b, number, ldb, 0, beta, c, number, ldc, 0, 1, 0); \
    }                                                                                                                  \
    EXPORT int cublas##letter##gemmStridedBatched(                                                                     \
        Handle *h, int ta, int tb, int m, int n, int k, const type *alpha, const type *a, int lda, long long sa,      \
        const type *b, int ldb, long long sb, const type *beta, type *c, int ldc, long long sc, int count) {          \
        return gemm_of(h, ta, tb, m, n, k, alpha, a, number, lda, sa, b, number, ldb, sb, beta, c, number, ldc, sc,    \
                       count, 0);                                                                                      \
    }                                                                                                                  \
    EXPORT int cublas##letter##gemmBatched(                                                                            \
        Handle *h, int ta, int tb, int m, int n, int k, const type *alpha, const type *const *a, int lda,             \
        const type *const *b, int ldb, const type *beta, type *const *c, int ldc, int count) {                         \
        Matrices size{ta, tb, m, n, k, lda, ldb, ldc, number == F32 && h->math_mode == TF32_MATH};                     \
        return gemm(h, size, alpha, Batch<const type>{nullptr, 0, a}, Batch<const type>{nullptr, 0, b}, beta,          \
                    Batch<type>{nullptr, 0, c}, count);                                                                \
    }                                                                                                                  \
    EXPORT int cublas##letter##gemv_v2(Handle *h, int t, int m, int n, const type *alpha, const type *a, int lda,     \
                                       const type *x, int incx, const type *beta, type *y, int incy) {                 \
        /* A row times a matrix; a step along a vector is a leading dimension. */                                      \
        return gemm_of(h, 0, !t, 1, t ? n : m, t ? m : n, alpha, x, number, incx, 0, a, number, lda, 0, beta, y,       \
                       number, incy, 0, 1, 0);                                                                         \
    }
GEMM(S, float, F32)
GEMM(D, double, F64)

EXPORT int cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a,
                        int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                        int compute, int) {
    return gemm_of(h, ta, tb, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1, compute);
}
EXPORT int cublasGemmStridedBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int type_a, int lda, long long sa, const void *b, int type_b, int ldb, long long sb,
                                      const void *beta, void *c, int type_c, int ldc, long long sc, int count, int compute,
                                      int) {
    return gemm_of(h, ta, tb, m, n, k, alpha, a, type_a, lda, sa, b, type_b, ldb, sb, beta, c, type_c, ldc, sc, count,
                   compute);
}
