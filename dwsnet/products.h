// Vectorised matrix products: a block of the result stays in registers, one factor is broadcast,
// the other is read in vectors. Results have a multiple of 16 columns, which is whole vectors on
// every machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, BLOCK = 8;  // 16 accumulators hide the latency of two multipliers
#elif defined(__AVX__)
constexpr int LANES = 8, BLOCK = 4;
#else
constexpr int LANES = 4, BLOCK = 4;
#endif
constexpr int LINE = 16;          // floats per cache line
constexpr int64_t DISTANCE = 16;  // rows between the result being written and the one prefetched
constexpr int64_t PANEL = 128;    // rows that stay in the L1 cache until all work on them is done

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));

inline Vector& at(float* place) { return *reinterpret_cast<Vector*>(place); }
inline Vector at(const float* place) { return *reinterpret_cast<const Vector*>(place); }

// Features that will be worked on next. Products prefetch them, one cache line every few steps: a
// core can only wait for so many lines, and prefetching all at once would stall what follows.
class Ahead {
    struct Range {
        const float *place, *end;
    };
    std::vector<Range> ranges;
    int64_t left = MOST;

  public:
    static constexpr int64_t EVERY = 4, MOST = 1 << 17;  // floats that stay in the L2 cache

    void clear() { ranges.clear(), left = MOST; }
    void add(const float* begin, int64_t floats) {
        if ((left -= floats) >= 0) ranges.push_back({begin, begin + floats});
    }
    // The address of the next lines, or null.
    const float* take(int64_t lines) {
        if (ranges.empty()) return nullptr;
        Range& range = ranges.back();
        const float* place = range.place;
        range.place += lines * LINE;
        if (range.place >= range.end) ranges.pop_back();
        return place;
    }
};

// Calls `work.template operator()<vectors>(start)` for strips of two vectors, or one, that cover
// the whole vectors of `width`.
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

// ROWS rows of the result are `start(row, v)` plus the sum of `factor(row, k) * right[k]` over all
// k below `count`. Without the pragmas GCC keeps the sums in memory.
template <int ROWS, int VECTORS, typename Start, typename Factor>
inline void block(int64_t count, const float* right, int64_t right_step, const Start& start,
                  const Factor& factor, float* result, int64_t step, Ahead& ahead) {
    Vector sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sums[r][v] = start(r, v);
    const float* asked = ahead.take(count / Ahead::EVERY);
    const int64_t line = asked ? LINE : 0;
    if (!asked) asked = right;
#pragma GCC unroll 4
    for (int64_t k = 0; k < count; k++) {
        if (k % Ahead::EVERY == 0) __builtin_prefetch(asked, 0, 2), asked += line;
        Vector vectors[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) vectors[v] = at(right + k * right_step + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[r][v] += factor(r, k) * vectors[v];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) at(result + r * step + v * LANES) = sums[r][v];
}

// Rows in other memory, times a factor.
constexpr int32_t NONE = 0;
struct Term {
    const float* base;
    float factor = 1.0f;
    const int32_t* offsets = &NONE;  // one per row, or one for all
    int64_t step = 0;

    const float* row(int64_t r) const { return base + offsets[r * step]; }
    Term from(int64_t r) const { return {base, factor, offsets + r * step, step}; }
};

// Initial values of the rows of a result.
struct Terms {
    Term first, second;

    Terms from(int64_t row) const { return {first.from(row), second.from(row)}; }
    Vector at_start(int64_t row, int64_t column) const {
        return at(first.row(row) + column) * first.factor +
               at(second.row(row) + column) * second.factor;
    }
};

// result `(rows, width)` = terms + left `(rows, depth)` times right `(depth, width)`. A `fresh`
// result is in no cache, so its memory is prefetched.
void product(const Terms& terms, const float* left, int64_t rows, int64_t depth, const float* right,
             int64_t width, float* result, bool fresh, Ahead& ahead) {
    for_strips(width, [&]<int VECTORS>(int64_t s) {
        for_blocks(rows, [&]<int ROWS>(int64_t row) {
            const float* a = left + row * depth;
            float* room = result + (row + DISTANCE) * width;
            for (int64_t k = 0; fresh && k < ROWS * width; k += LINE)
                __builtin_prefetch(room + k, 1, 3);
            const auto start = [&](int r, int v) { return terms.at_start(row + r, s + v * LANES); };
            const auto factor = [=](int r, int64_t k) { return a[r * depth + k]; };
            block<ROWS, VECTORS>(depth, right + s, width, start, factor, result + row * width + s,
                                 width, ahead);
        });
    });
}

// result `(rows, width)` = terms + features `(rows, step)`.
void add(const Terms& terms, const float* features, int64_t step, int64_t rows, int64_t width,
         float* result) {
    for (int64_t row = 0; row < rows; row++)
        for_strips(width, [&]<int VECTORS>(int64_t s) {
            for (int64_t c = s; c < s + VECTORS * LANES; c += LANES)
                at(result + row * width + c) =
                    terms.at_start(row, c) + at(features + row * step + c);
        });
}

// sums `(depth, width)` += left `(rows, depth)` transposed times right `(rows, width)`.
void add_outer(const float* left, int64_t depth, const float* right, int64_t width, int64_t rows,
               float* sums, Ahead& ahead) {
    for_strips(width, [&]<int VECTORS>(int64_t s) {
        for_blocks(depth, [&]<int ROWS>(int64_t k) {
            float* result = sums + k * width + s;
            const auto start = [=](int r, int v) { return at(result + r * width + v * LANES); };
            const auto factor = [=](int r, int64_t row) { return left[row * depth + k + r]; };
            block<ROWS, VECTORS>(rows, right + s, width, start, factor, result, width, ahead);
        });
    });
}

// to += the sum of `count` rows times the factor.
void add_rows(const float* rows, int64_t step, int64_t count, int64_t width, float factor,
              float* to) {
    const int64_t done = for_strips(width, [&]<int VECTORS>(int64_t c) {
        Vector sums[VECTORS] = {};
        const float* row = rows + c;
        int64_t k = 0;
        for (; k + 4 <= count; k += 4, row += 4 * step)
            for (int v = 0; v < VECTORS; v++) {
                const float* a = row + v * LANES;
                sums[v] +=
                    (at(a) + at(a + step)) + (at(a + 2 * step) + at(a + 3 * step));  // short chains
            }
        for (; k < count; k++, row += step)
            for (int v = 0; v < VECTORS; v++) sums[v] += at(row + v * LANES);
        for (int v = 0; v < VECTORS; v++) at(to + c + v * LANES) += sums[v] * factor;
    });
    for (int64_t c = done; c < width; c++)
        for (int64_t k = 0; k < count; k++) to[c] += rows[k * step + c] * factor;
}

// to `(rows, to_step)` = `width` columns of from `(rows, from_step)`.
void copy(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t rows,
          int64_t width) {
    for (int64_t row = 0; row < rows; row++)
        std::copy_n(from + row * from_step, width, to + row * to_step);
}

}  // namespace
