// Products of features, in vectors: a block of the result stays in registers, one factor is broadcast, the other is read in
// vectors. Results have a multiple of 16 columns: whole vectors on every machine.
#pragma once

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
constexpr int LINE = 16;       // floats of a cache line
constexpr int64_t AHEAD = 16;  // rows of a result between what is written and what is asked for
constexpr int64_t PANEL = 64;  // rows of a result, or of two factors, that stay in the L1 cache

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));

inline Vector& at(float* place) { return *reinterpret_cast<Vector*>(place); }
inline Vector at(const float* place) { return *reinterpret_cast<const Vector*>(place); }
inline void expect(const float* place, int64_t count) {
    for (int64_t k = 0; k < count; k += LINE) __builtin_prefetch(place + k, 0, 2);
}
inline void expect_to_write(float* place, int64_t count) {
    for (int64_t k = 0; k < count; k += LINE) __builtin_prefetch(place + k, 1, 3);
}

// Calls `work.template operator()<vectors>(start)` for strips of two vectors, or one, that cover the whole vectors of `width`.
template <typename Work>
inline int64_t for_strips(int64_t width, const Work& work) {
    int64_t start = 0;
    for (; start + 2 * LANES <= width; start += 2 * LANES) work.template operator()<2>(start);
    for (; start + LANES <= width; start += LANES) work.template operator()<1>(start);
    return start;
}

// Calls `work.template operator()<rows>(first)` for blocks of rows that cover `count`.
template <typename Work>
inline void for_blocks(int64_t count, const Work& work) {
    int64_t row = 0;
    for (; row + BLOCK <= count; row += BLOCK) work.template operator()<BLOCK>(row);
    for (; row + 4 <= count; row += 4) work.template operator()<4>(row);
    for (; row + 2 <= count; row += 2) work.template operator()<2>(row);
    for (; row < count; row++) work.template operator()<1>(row);
}

// ROWS rows of the result are `start(row, v)` plus the sum of `factor(row, k) * right[k]` over all k below `count`.
template <int ROWS, int VECTORS, typename Start, typename Factor>
inline void block(int64_t count, const float* right, int64_t right_step, const Start& start, const Factor& factor,
                  float* result, int64_t step) {
    Vector sums[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] = start(r, v);
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; k++) {
        Vector vectors[VECTORS];
        for (int v = 0; v < VECTORS; v++) vectors[v] = at(right + k * right_step + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] += factor(r, k) * vectors[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) at(result + r * step + v * LANES) = sums[r][v];
}

// What the rows of a panel start from: two rows elsewhere, each times a factor.
struct Terms {
    const float* rows[2][PANEL];
    float factors[2];

    Vector at_start(int64_t row, int64_t column) const {
        return at(rows[0][row] + column) * factors[0] + at(rows[1][row] + column) * factors[1];
    }
};

// result `(rows, width)` = terms + left `(rows, depth)` times right `(depth, width)`; of a set that is one tensor, whose
// features will go on at `next`, asks for these and for the room of the result.
void product(const Terms& terms, const float* left, int64_t rows, int64_t depth, const float* right, int64_t width,
             float* result, const float* next) {
    for_strips(width, [&]<int VECTORS>(int64_t s) {
        for_blocks(rows, [&]<int ROWS>(int64_t row) {
            const float* a = left + row * depth;
            if (next) {
                expect(next + row * depth, ROWS * depth);
                expect_to_write(result + (row + AHEAD) * width, ROWS * width);
            }
            const auto start = [&](int r, int v) { return terms.at_start(row + r, s + v * LANES); };
            const auto factor = [=](int r, int64_t k) { return a[r * depth + k]; };
            block<ROWS, VECTORS>(depth, right + s, width, start, factor, result + row * width + s, width);
        });
    });
}

// result `(rows, width)` = terms + features.
void add(const Terms& terms, const float* features, int64_t rows, int64_t width, float* result) {
    for (int64_t row = 0; row < rows; row++)
        for_strips(width, [&]<int VECTORS>(int64_t s) {
            for (int64_t c = s; c < s + VECTORS * LANES; c += LANES)
                at(result + row * width + c) = terms.at_start(row, c) + at(features + row * width + c);
        });
}

// sums `(depth, width)` += left `(rows, depth)` transposed times right `(rows, width)`.
void add_outer(const float* left, int64_t depth, const float* right, int64_t width, int64_t rows, float* sums) {
    for (int64_t p = 0; p < rows; p += PANEL) {
        const int64_t count = std::min(PANEL, rows - p);
        for_strips(width, [&]<int VECTORS>(int64_t s) {
            for_blocks(depth, [&]<int ROWS>(int64_t k) {
                const float* a = left + p * depth + k;
                float* result = sums + k * width + s;
                const auto start = [=](int r, int v) { return at(result + r * width + v * LANES); };
                const auto factor = [=](int r, int64_t row) { return a[row * depth + r]; };
                block<ROWS, VECTORS>(count, right + p * width + s, width, start, factor, result, width);
            });
        });
    }
}

// to `(rows, to_step)` = `width` columns of from `(rows, from_step)`, where `sign`, which lies as from does, is positive.
void copy(const float* from, const float* sign, int64_t from_step, float* to, int64_t to_step, int64_t rows, int64_t width) {
    if (width == from_step && width == to_step) width *= rows, rows = 1;
    for (int64_t row = 0; row < rows; row++, from += from_step, to += to_step, sign += sign ? from_step : 0)
        if (sign)
            for (int64_t c = 0; c < width; c++) to[c] = sign[c] > 0 ? from[c] : 0.0f;
        else
            std::copy_n(from, width, to);
}

}  // namespace
