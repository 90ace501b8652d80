// The passes of a layer over a tensor with two hidden axes, compiled at first use: features `(members, rows, columns,
// channels)`, contiguous. What comes out of a product has a multiple of 16 channels: whole vectors on every machine.
//
// These tensors do not fit in the caches, so a pass costs what it reads and writes. Each routine reads a feature once,
// keeps a block of the result in registers, and asks for what comes next early, for the strided reads of a matrix product
// are more than the hardware foresees.

#include <algorithm>
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, BLOCK = 8;  // 16 accumulators: enough to hide the latency of two multipliers
#elif defined(__AVX__)
constexpr int LANES = 8, BLOCK = 4;
#else
constexpr int LANES = 4, BLOCK = 4;
#endif
constexpr int LINE = 16;    // floats of a cache line
constexpr int AHEAD = 1024;  // floats between what is read and what is asked for: 4 KiB
constexpr int CHUNK = 64;   // positions whose features stay in the L1 cache

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));

inline Vector& at(float* place) { return *reinterpret_cast<Vector*>(place); }
inline Vector at(const float* place) { return *reinterpret_cast<const Vector*>(place); }
inline void expect(const float* place, int64_t count) {
    for (int64_t k = 0; k < count; k += LINE) __builtin_prefetch(place + k);
}

// Calls `work.template operator()<vectors>(start)` for strips of two vectors, or one, that cover `width` floats.
template <typename Work>
inline void for_strips(int64_t width, const Work& work) {
    int64_t start = 0;
    for (; start + 2 * LANES <= width; start += 2 * LANES) work.template operator()<2>(start);
    if (start < width) work.template operator()<1>(start);
}

// ROWS rows of the result start as `start(row, v)` and gain `factor(row, k) * right[k]` for all k below `count`.
template <int ROWS, int VECTORS, typename Start, typename Factor>
inline void product(int64_t count, const float* right, int64_t width, const Start& start, const Factor& factor, float* result) {
    Vector sums[ROWS][VECTORS];
    for (int v = 0; v < VECTORS; v++)
        for (int r = 0; r < ROWS; r++) sums[r][v] = start(r, v);
    for (int64_t k = 0; k < count; k++) {
        Vector vectors[VECTORS];
        for (int v = 0; v < VECTORS; v++) vectors[v] = at(right + k * width + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] += factor(r, k) * vectors[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) at(result + r * width + v * LANES) = sums[r][v];
}

// One row of positions of one member: `(columns, in)` features times the matrix, plus both terms.
void affine_row(const float* x, int64_t columns, int64_t in, const float* matrix, int64_t out, const float* row_term,
                const float* column_term, float* y) {
    for_strips(out, [&]<int VECTORS>(int64_t s) {
        const auto block = [&]<int ROWS>(int64_t j) {
            const auto start = [&](int r, int v) {
                return at(row_term + s + v * LANES) + at(column_term + (j + r) * out + s + v * LANES);
            };
            const auto factor = [&](int r, int64_t k) { return x[(j + r) * in + k]; };
            expect(x + j * in + AHEAD, ROWS * in);
            product<ROWS, VECTORS>(in, matrix + s, out, start, factor, y + j * out + s);
        };
        int64_t j = 0;
        for (; j + BLOCK <= columns; j += BLOCK) block.template operator()<BLOCK>(j);
        for (; j < columns; j++) block.template operator()<1>(j);
    });
}

// Adds to `sums` `(left, right)` the outer products of the features at `count` positions.
void add_outer(const float* x, int64_t left, const float* y, int64_t right, int64_t count, float* sums) {
    for (int64_t p = 0; p < count; p += CHUNK, x += CHUNK * left, y += CHUNK * right) {
        const int64_t positions = std::min<int64_t>(CHUNK, count - p);
        expect(x + CHUNK * left, CHUNK * left);
        expect(y + CHUNK * right, CHUNK * right);
        for_strips(right, [&]<int VECTORS>(int64_t s) {
            const auto block = [&]<int ROWS>(int64_t k) {
                float* result = sums + k * right + s;
                const auto start = [&](int r, int v) { return at(result + r * right + v * LANES); };
                const auto factor = [&](int r, int64_t position) { return x[position * left + k + r]; };
                product<ROWS, VECTORS>(positions, y + s, right, start, factor, result);
            };
            int64_t k = 0;
            for (; k + BLOCK <= left; k += BLOCK) block.template operator()<BLOCK>(k);
            for (; k < left; k++) block.template operator()<1>(k);
        });
    }
}

}  // namespace

extern "C" {

// Sums over the rows `(members, columns, channels)` and over the columns `(members, rows, channels)`.
void sum_both(const float* x, int64_t members, int64_t rows, int64_t columns, int64_t channels, float* over_rows,
              float* over_columns, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < members; m++) {
        float* by_column = over_rows + m * columns * channels;
        std::fill_n(by_column, columns * channels, 0.0f);
        for (int64_t i = m * rows; i < (m + 1) * rows; i++) {
            float* by_row = over_columns + i * channels;
            const float* row = x + i * columns * channels;
            std::fill_n(by_row, channels, 0.0f);
            expect(row + AHEAD, columns * channels);
            for (int64_t j = 0; j < columns; j++)
                for (int64_t c = 0; c < channels; c++) {
                    const float value = row[j * channels + c];
                    by_row[c] += value;
                    by_column[j * channels + c] += value;
                }
        }
    }
}

// y = x times the matrix + a term for each row + a term for each column.
void affine(const float* x, int64_t members, int64_t rows, int64_t columns, int64_t in, const float* matrix, int64_t out,
            const float* row_terms, const float* column_terms, float* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t m = 0; m < members; m++)
        for (int64_t i = m * rows; i < (m + 1) * rows; i++)
            affine_row(x + i * columns * in, columns, in, matrix, out, row_terms + i * out, column_terms + m * columns * out,
                       y + i * columns * out);
}

// What backpropagation of y = x matrix + terms takes and gives, a member at a time: the gradient of x is an affine map of
// the gradient of y, and that of the matrix, transposed, comes into one `(out, in)` sum for each thread.
void affine_backward(const float* to_y, int64_t members, int64_t rows, int64_t columns, int64_t out, const float* transposed,
                     int64_t in, const float* row_terms, const float* column_terms, const float* x, float* to_x,
                     float* to_transposed, int threads) {
    std::fill_n(to_transposed, threads * out * in, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++)
        for (int64_t m = members * t / threads; m < members * (t + 1) / threads; m++) {
            const int64_t position = m * rows * columns;
            affine(to_y + position * out, 1, rows, columns, out, transposed, in, row_terms + m * rows * in,
                   column_terms + m * columns * in, to_x + position * in, 1);
            add_outer(to_y + position * out, out, x + position * in, in, rows * columns, to_transposed + t * out * in);
        }
}
}
