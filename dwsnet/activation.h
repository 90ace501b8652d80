// Operations on features as they enter and leave a layer, while they are in the cache: norm and
// GELU when they are read, sums when they are written, and the same for the backward pass.
// `channels` is a multiple of the vector width.
#pragma once

#include "gelu.h"

namespace {

// How the entries of one tensor are read, with two numbers per channel; unchanged if `first` is
// null.
struct Reading {
    const float *first = nullptr, *second = nullptr, *beside = nullptr;
    int64_t channels = 0;

    explicit operator bool() const { return first; }

    // GELU(first * x + second) or, with `beside`, x + first + second * beside.
    Vector at_entry(const float* from, int64_t entry, int64_t channel) const {
        const Vector x = at(from + entry), f = at(first + channel), s = at(second + channel);
        return beside ? x + f + s * at(beside + entry) : Gelu(f * x + s).value;
    }

    // to `(rows, to_step)` = `width` columns of rows, read from `entry` floats after `from`.
    void apply(const float* from, int64_t entry, float* to, int64_t to_step, int64_t rows,
               int64_t width) const {
        if (!first) return copy(from + entry, width, to, to_step, rows, width);
        for (int64_t row = 0; row < rows; row++, entry += width, to += to_step)
            for (int64_t start = 0; start < width; start += channels)
                for (int64_t c = 0; c < channels; c += LANES)
                    at(to + start + c) = at_entry(from, entry + start + c, c);
    }
};

// The same for all tensors; `coefficients` is `(2, tensors, channels)` or null.
struct Readings {
    const float* coefficients = nullptr;
    float* const* beside = nullptr;
    int64_t tensors = 0, channels = 0;

    Reading of(int64_t i, int64_t entry) const {
        if (!coefficients) return {};
        const float* first = coefficients + i * channels;
        return {first, first + tensors * channels, beside ? beside[i] + entry : nullptr, channels};
    }
};

// What happens as tensors are written. For outputs y, y and y^2 are summed. Gradients of GELU(a x +
// b) become those of x, a times d, where d are the gradients of a x + b, and d x and d are summed.
// `sums` is `(2, tensors, channels)`, one per thread, or null.
struct Writing {
    double* sums = nullptr;
    int64_t tensors = 0, channels = 0;
    const Readings* readings = nullptr;
    float* const* x = nullptr;

    // Finish `count` entries of tensor `i` from `entry` on, which are at `y`.
    void finish(int64_t i, int64_t entry, float* y, int64_t count) const {
        if (!sums) return;
        const Reading reading = readings ? readings->of(i, 0) : Reading{};
        for (int64_t c = 0; c < channels; c += LANES) {
            Vector one{}, two{};
            if (readings) {
                const Vector a = at(reading.first + c), b = at(reading.second + c);
                for (int64_t k = c; k < count; k += channels) {
                    const Vector input = at(x[i] + entry + k),
                                 d = at(y + k) * Gelu(a * input + b).slope;
                    one += d * input, two += d, at(y + k) = a * d;
                }
            } else {
                for (int64_t k = c; k < count; k += channels)
                    one += at(y + k), two += at(y + k) * at(y + k);
            }
            double* sum = sums + i * channels + c;
            for (int lane = 0; lane < LANES; lane++)
                sum[lane] += one[lane], sum[tensors * channels + lane] += two[lane];
        }
    }
};

}  // namespace
