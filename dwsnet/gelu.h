// Batch normalisation and GELU in as few passes over memory as possible: two forward, two backward.
// Intermediate values are recomputed when needed, which is faster than reading them.
#pragma once

#include <cmath>

#include "products.h"

namespace {

typedef int32_t Integers __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));

constexpr int64_t TOGETHER = 512;   // rows summed in float32 before they are added to float64
constexpr int64_t ALONE = 1 << 15;  // numbers too few to be worth a second thread

// 2^p for p from -126 to 126, to a relative error of 1e-7: the integer part goes into the exponent,
// the rest through a polynomial.
inline Vector exp2(Vector p) {
    constexpr float WHOLE = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector n = p + WHOLE, r = p - (n - WHOLE);
    Vector y = Vector{} + 0.00133908634f;
    for (const float c : {0.00967603192f, 0.0555035711f, 0.240221075f, 0.693147188f, 1.0f})
        y = y * r + c;
    return reinterpret_cast<Vector>(reinterpret_cast<Integers>(y) +
                                    (reinterpret_cast<Integers>(n) << 23));
}

// z Phi(z) and its derivative, to 1e-6. log2 Phi(-m) is nearly a parabola: a polynomial fitted on
// [0, 9.5] gives Phi, and its derivative gives the density.
struct Gelu {
    Vector value, slope;

    explicit Gelu(Vector z) {
        constexpr float COEFFICIENTS[] = {2.93286511e-07f,  -6.49701368e-06f, 5.76329011e-05f,
                                          -2.32880823e-04f, -7.13780205e-05f, 7.01351028e-03f,
                                          -5.24773762e-02f, -4.59210806e-01f, -1.15110526f,
                                          -9.99999984e-01f};
        constexpr float FAR = 9.0f, LN2 = 0.693147181f;
        const Vector size = z < 0.0f ? -z : z, m = size > FAR ? Vector{} + FAR : size;
        Vector power{}, derivative{};
#pragma GCC unroll 10
        for (const float c : COEFFICIENTS)
            derivative = derivative * m + power, power = power * m + c;
        const Vector tail = size > FAR ? Vector{} : exp2(power), phi = tail * derivative * -LN2,
                     whole = z < 0.0f ? tail : 1.0f - tail;
        value = z * whole, slope = whole + z * phi;
    }
};

// The work on a tensor of features `(rows, channels)`, whose rows are divided between threads.
struct Normalized {
    const float* x;
    int64_t rows, channels;
    const float *gain, *shift, *mean, *variance;
    float epsilon;

    // Calls `work(thread, first row, end)`.
    template <typename Work>
    void for_threads(int threads, const Work& work) const {
        if (rows * channels < ALONE) threads = 1;
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int t = 0; t < threads; t++) work(t, rows * t / threads, rows * (t + 1) / threads);
    }

    // Two sums over rows per channel; `term(row, channel)` returns the two summands.
    template <typename Term>
    std::vector<double> sums(int threads, const Term& term) const {
        std::vector<double> all_sums(2 * channels * threads), total(2 * channels);
        for_threads(threads, [&](int t, int64_t first, int64_t end) {
            std::vector<float> part(2 * channels + LANES);
            double* own = all_sums.data() + 2 * channels * t;
            for (int64_t start = first; start < end; start += TOGETHER) {
                std::fill(part.begin(), part.end(), 0.0f);
                for (int64_t r = start; r < std::min(start + TOGETHER, end); r++)
                    for (int64_t c = 0; c < channels; c += LANES) {
                        const auto [one, two] = term(r, c);
                        at(&part[c]) += one, at(&part[channels + c]) += two;
                    }
                for (int64_t c = 0; c < 2 * channels; c++) own[c] += part[c];
            }
        });
        for (size_t i = 0; i < all_sums.size(); i++) total[i % (2 * channels)] += all_sums[i];
        return total;
    }

    Vector values(int64_t row, int64_t c) const { return at(x + row * channels + c); }

    // Mean and variance of each channel, from distances to the first row, so that a large mean
    // costs no precision.
    void moments(float* to_mean, float* to_variance, int threads) const {
        const auto found = sums(threads, [&](int64_t r, int64_t c) {
            const Vector distance = values(r, c) - at(x + c);
            return std::pair(distance, distance * distance);
        });
        for (int64_t c = 0; c < channels; c++) {
            const double off = found[c] / rows;
            to_mean[c] = x[c] + off;
            to_variance[c] = std::max(0.0, found[channels + c] / rows - off * off);
        }
    }

    // The reciprocal standard deviation of each channel.
    std::vector<float> scale() const {
        std::vector<float> result(channels);
        for (int64_t c = 0; c < channels; c++) result[c] = 1 / std::sqrt(variance[c] + epsilon);
        return result;
    }

    void apply(float* y, int threads) const {
        const auto inverse = scale();
        for_threads(threads, [&](int, int64_t first, int64_t end) {
            for (int64_t r = first; r < end; r++)
                for (int64_t c = 0; c < channels; c += LANES) {
                    const Vector z =
                        (values(r, c) - at(mean + c)) * at(&inverse[c]) * at(gain + c) +
                        at(shift + c);
                    at(y + r * channels + c) = Gelu(z).value;
                }
        });
    }

    // Gradients of x, the gain and the shift from that of y. Between the passes `to_x` holds the
    // gradient of z.
    void backward(const float* to_y, float* to_x, float* to_gain, float* to_shift,
                  int threads) const {
        const auto inverse = scale();
        const auto found = sums(threads, [&](int64_t r, int64_t c) {
            const Vector unit = (values(r, c) - at(mean + c)) * at(&inverse[c]),
                         z = unit * at(gain + c) + at(shift + c);
            const Vector to_z = at(to_y + r * channels + c) * Gelu(z).slope;
            at(to_x + r * channels + c) = to_z;
            return std::pair(to_z, to_z * unit);
        });
        std::vector<float> constant(channels), slope(channels), factor(channels);
        for (int64_t c = 0; c < channels; c++) {
            to_shift[c] = found[c], to_gain[c] = found[channels + c];
            constant[c] = found[c] / rows, slope[c] = found[channels + c] / rows * inverse[c],
            factor[c] = gain[c] * inverse[c];
        }
        for_threads(threads, [&](int, int64_t first, int64_t end) {
            for (int64_t r = first; r < end; r++)
                for (int64_t c = 0; c < channels; c += LANES) {
                    Vector& to = at(to_x + r * channels + c);
                    to = (to - at(&constant[c]) - (values(r, c) - at(mean + c)) * at(&slope[c])) *
                         at(&factor[c]);
                }
        });
    }
};

}  // namespace
