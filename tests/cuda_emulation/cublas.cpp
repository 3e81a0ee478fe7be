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
    bool workspace = false;               // whether it was given memory
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

template <class T>
struct Matrix {
    T *data;
    int64_t row_step, column_step;
    T &operator()(int64_t i, int64_t j) const { return data[i * row_step + j * column_step]; }
};

// c (m, n) = alpha a (m, k) b (k, n) + beta c, in tiles of rows that stay in the nearest cache, four columns at a time.
template <class In, class Out, class Sum>
void multiply(int m, int n, int k, bool tf32, Sum alpha, Matrix<const In> a, Matrix<const In> b, Sum beta,
              Matrix<Out> c) {
    if (m < n)  // the inner loop runs along m
        return multiply<In, Out, Sum>(n, m, k, tf32, alpha, {b.data, b.column_step, b.row_step},
                                      {a.data, a.column_step, a.row_step}, beta, {c.data, c.column_step, c.row_step});
    constexpr int ROWS = 256, COLUMNS = 4;
    auto value = [=](In x) { return tf32 ? Sum(rounded_to_tf32(float(x))) : Sum(x); };
    std::vector<Sum> tile(size_t(ROWS) * k), factors(size_t(COLUMNS) * k);
    for (int top = 0; top < m; top += ROWS) {
        int rows = std::min(ROWS, m - top);
        for (int p = 0; p < k; p++)
            for (int i = 0; i < rows; i++) tile[size_t(p) * ROWS + i] = value(a(top + i, p));
        for (int left = 0; left < n; left += COLUMNS) {
            int columns = std::min(COLUMNS, n - left);
            for (int p = 0; p < k; p++)
                for (int j = 0; j < COLUMNS; j++)
                    factors[size_t(p) * COLUMNS + j] = j < columns ? value(b(p, left + j)) : Sum(0);
            Sum sums[COLUMNS][ROWS] = {};
            for (int p = 0; p < k; p++) {
                const Sum *column = &tile[size_t(p) * ROWS], *factor = &factors[size_t(p) * COLUMNS];
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < COLUMNS; j++) sums[j][i] += column[i] * factor[j];
            }
            for (int j = 0; j < columns; j++)
                for (int i = 0; i < rows; i++) {
                    Out &target = c(top + i, left + j);
                    // With beta 0 the old content does not count, whatever it is.
                    target = Out(alpha * sums[j][i] + (beta == Sum(0) ? Sum(0) : beta * Sum(target)));
                }
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
    bool check(int i) const { return !pointers || inside(pointers + i, sizeof *pointers); }
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
    if (stream->capture && (!handle->workspace || !on_host)) return NOT_INITIALIZED;  // stricter than cuBLAS
    for (const void *pointer : {a.memory(), b.memory(), c.memory()})
        if (Block *block = block_of(pointer); !block || block->device != stream->device)
            if (size.k || pointer == c.memory())
                fail(ILLEGAL_ADDRESS, "a matrix product was given memory that is not its device's");
    give(stream, [=] {
        // A matrix of so many columns of so many numbers each.
        auto check = [&](const auto *data, int64_t leading, int64_t height, int64_t width) {
            bool well = !height || !width || inside(data, ((width - 1) * leading + height) * sizeof *data);
            if (!well) fail(ILLEGAL_ADDRESS, "a matrix product goes beyond " + described(data));
            return well;
        };
        for (int i = 0; i < count; i++) {
            if (!a.check(i) || !b.check(i) || !c.check(i))
                return fail(ILLEGAL_ADDRESS, "a batch of products has no pointers");
            if (!check(a[i], size.lda, size.transposed_a ? size.k : size.m, size.transposed_a ? size.m : size.k) ||
                !check(b[i], size.ldb, size.transposed_b ? size.n : size.k, size.transposed_b ? size.k : size.n) ||
                !check(c[i], size.ldc, size.m, size.n))
                return;
            Matrix<const In> left{a[i], size.transposed_a ? size.lda : 1, size.transposed_a ? 1 : size.lda};
            Matrix<const In> right{b[i], size.transposed_b ? size.ldb : 1, size.transposed_b ? 1 : size.ldb};
            multiply(size.m, size.n, size.k, size.tf32, on_host ? alpha_now : *alpha, left, right,
                     on_host ? beta_now : *beta, Matrix<Out>{c[i], 1, size.ldc});
        }
    });
    return error() == OK ? OK : EXECUTION_FAILED;
}

int gemm_of(Handle *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a,
            int64_t lda, int64_t step_a, const void *b, int type_b, int64_t ldb, int64_t step_b, const void *beta,
            void *c, int type_c, int64_t ldc, int64_t step_c, int count, int compute) {
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

EXPORT int cublasCreate_v2(Handle **handle) {
    *handle = new Handle;
    return OK;
}
EXPORT int cublasDestroy_v2(Handle *handle) {
    delete handle;
    return OK;
}
EXPORT int cublasGetVersion_v2(Handle *, int *version) {
    *version = CUDA_MAJOR * 10000;
    return OK;
}
EXPORT int cublasSetStream_v2(Handle *handle, void *stream) {
    handle->stream = stream;
    handle->workspace = false;  // forgotten, as cuBLAS says
    return OK;
}
EXPORT int cublasGetStream_v2(Handle *handle, void **stream) {
    *stream = handle->stream;
    return OK;
}
EXPORT int cublasSetWorkspace_v2(Handle *handle, void *memory, size_t size) {
    Held held(lock);
    if (size && !inside(memory, size)) return INVALID;
    handle->workspace = size;
    return OK;
}
EXPORT int cublasSetPointerMode_v2(Handle *handle, int mode) {
    handle->pointer_mode = mode;
    return OK;
}
EXPORT int cublasGetPointerMode_v2(Handle *handle, int *mode) {
    *mode = handle->pointer_mode;
    return OK;
}
EXPORT int cublasSetMathMode(Handle *handle, int mode) {
    handle->math_mode = mode;
    return OK;
}
EXPORT int cublasGetMathMode(Handle *handle, int *mode) {
    *mode = handle->math_mode;
    return OK;
}

#define GEMM(letter, type, number)                                                                                  \
    EXPORT int cublas##letter##gemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const type *alpha,           \
                                       const type *a, int lda, const type *b, int ldb, const type *beta, type *c,   \
                                       int ldc) {                                                                   \
        return gemm_of(h, ta, tb, m, n, k, alpha, a, number, lda, 0, b, number, ldb, 0, beta, c, number, ldc, 0, 1, \
                       0);                                                                                          \
    }                                                                                                               \
    EXPORT int cublas##letter##gemmStridedBatched(                                                                  \
        Handle *h, int ta, int tb, int m, int n, int k, const type *alpha, const type *a, int lda, long long sa,    \
        const type *b, int ldb, long long sb, const type *beta, type *c, int ldc, long long sc, int count) {        \
        return gemm_of(h, ta, tb, m, n, k, alpha, a, number, lda, sa, b, number, ldb, sb, beta, c, number, ldc, sc, \
                       count, 0);                                                                                   \
    }                                                                                                               \
    EXPORT int cublas##letter##gemmBatched(Handle *h, int ta, int tb, int m, int n, int k, const type *alpha,       \
                                           const type *const *a, int lda, const type *const *b, int ldb,            \
                                           const type *beta, type *const *c, int ldc, int count) {                  \
        Matrices size{ta, tb, m, n, k, lda, ldb, ldc, number == F32 && h->math_mode == TF32_MATH};                  \
        return gemm(h, size, alpha, Batch<const type>{nullptr, 0, a}, Batch<const type>{nullptr, 0, b}, beta,       \
                    Batch<type>{nullptr, 0, c}, count);                                                             \
    }                                                                                                               \
    EXPORT int cublas##letter##gemv_v2(Handle *h, int t, int m, int n, const type *alpha, const type *a, int lda,   \
                                       const type *x, int incx, const type *beta, type *y, int incy) {              \
        /* A row times a matrix; a step along a vector is a leading dimension. */                                   \
        return gemm_of(h, 0, !t, 1, t ? n : m, t ? m : n, alpha, x, number, incx, 0, a, number, lda, 0, beta, y,    \
                       number, incy, 0, 1, 0);                                                                      \
    }
GEMM(S, float, F32)
GEMM(D, double, F64)

EXPORT int cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int type_a,
                        int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                        int compute, int) {
    return gemm_of(h, ta, tb, m, n, k, alpha, a, type_a, lda, 0, b, type_b, ldb, 0, beta, c, type_c, ldc, 0, 1,
                   compute);
}
EXPORT int cublasGemmStridedBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                                      int type_a, int lda, long long sa, const void *b, int type_b, int ldb,
                                      long long sb, const void *beta, void *c, int type_c, int ldc, long long sc,
                                      int count, int compute, int) {
    return gemm_of(h, ta, tb, m, n, k, alpha, a, type_a, lda, sa, b, type_b, ldb, sb, beta, c, type_c, ldc, sc, count,
                   compute);
}
