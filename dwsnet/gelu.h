// Batch normalisation and GELU in as few passes over memory as there can be: two to go through, two to come back. What lies
// between the two is computed again where it is needed, as that is faster than reading it.
#pragma once

#include <cmath>

#include "products.h"

namespace {

typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

constexpr int64_t TOGETHER = 512;    // rows whose sums are taken in float32 before they are added up in float64
constexpr int64_t ALONE = 1 << 15;   // numbers that are not worth a second thread

inline Vector all(float x) { return x - Vector{}; }

// exp(x) for x <= 0, to 2 units in the last place; 0 below -80, as what is made of smaller numbers would be slow to work with.
inline Vector exponential(const Vector below) {
    const Vector x = below < -80.0f ? all(-80.0f) : below;
    const Vector shift = all(12582912.0f);  // 1.5 x 2^23: what is added to it is rounded to an integer
    const Vector n = (x * 1.44269504f + shift) - shift;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    Vector p = all(1.9875691500e-4f);
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = p * r + c;
    p = p * r * r + r + 1.0f;
    const Integers scale = (__builtin_convertvector(n, Integers) + 127) << 23;
    return below < -80.0f ? Vector{} : p * reinterpret_cast<const Vector&>(scale);
}

// The normal distribution up to z, to 1.5e-7, and its density times sqrt(2 pi): Abramowitz and Stegun 7.1.26.
struct Normal {
    Vector below, density;

    explicit Normal(Vector z) {
        const Vector size = z < 0.0f ? -z : z;
        density = exponential(z * z * -0.5f);
        const Vector t = 1.0f / (1.0f + size * (0.3275911f * 0.70710678f));
        Vector p = all(1.061405429f);
        for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
        const Vector tail = p * t * density * 0.5f;
        below = z < 0.0f ? tail : 1.0f - tail;
    }
};

// A tensor of features `(rows, channels)` on its way through; one thread has some of its rows.
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

    // For each channel two sums over rows: `term(row, channel)` gives the two that are added.
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

    // Mean and variance of each channel: of the distances from the first row, so that a large mean costs no digits.
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

    // Of each channel what x is divided by, inverted.
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
                    const Vector z = (values(r, c) - at(mean + c)) * at(&inverse[c]) * at(gain + c) + at(shift + c);
                    at(y + r * channels + c) = z * Normal(z).below;
                }
        });
    }

    // From the gradient of y those of x, the gain and the shift. That of z is kept in `to_x` between the passes.
    void backward(const float* to_y, float* to_x, float* to_gain, float* to_shift, int threads) const {
        const auto inverse = scale();
        const auto found = sums(threads, [&](int64_t r, int64_t c) {
            const Vector unit = (values(r, c) - at(mean + c)) * at(&inverse[c]), z = unit * at(gain + c) + at(shift + c);
            const Normal normal(z);
            const Vector to_z = at(to_y + r * channels + c) * (normal.below + z * normal.density * 0.39894228f);
            at(to_x + r * channels + c) = to_z;
            return std::pair(to_z, to_z * unit);
        });
        std::vector<float> constant(channels), slope(channels), factor(channels);
        for (int64_t c = 0; c < channels; c++) {
            to_shift[c] = found[c], to_gain[c] = found[channels + c];
            constant[c] = found[c] / rows, slope[c] = found[channels + c] / rows * inverse[c], factor[c] = gain[c] * inverse[c];
        }
        for_threads(threads, [&](int, int64_t first, int64_t end) {
            for (int64_t r = first; r < end; r++)
                for (int64_t c = 0; c < channels; c += LANES) {
                    Vector& to = at(to_x + r * channels + c);
                    to = (to - at(&constant[c]) - (values(r, c) - at(mean + c)) * at(&slope[c])) * at(&factor[c]);
                }
        });
    }
};

}  // namespace
