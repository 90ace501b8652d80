// The layers on all tensors of a weight space, compiled at first use: float32, contiguous, folded
// features.
//
// Features do not fit into the caches, and reading and writing them is most of a layer's cost if
// every sum, product and broadcast is a separate pass. Here a few members at a time go through the
// whole layer while they are in the L2 cache. Tensors are passed as one pointer each, in the order
// of the space or of the axis sets; weights and their gradients are `(columns out, columns in)`.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "members.h"

namespace {

constexpr int64_t FEW_FLOATS = 65536;  // features of members processed together: 256 KiB
constexpr int64_t SMALL = 65536;  // entries of a matrix read for every few members, not per group
constexpr int64_t GROUP = 16;

// How many members are processed together, and how many share one product for the smallest set,
// which has one row per member.
struct Together {
    int64_t few, group;

    Together(const Incidence& incidence, int64_t in, int64_t out) {
        int64_t numbers = 0;
        for (int64_t s = 0; s < incidence.num_sets; s++)
            numbers += incidence.sets[s].positions * incidence.sets[s].fixed;
        few = std::max<int64_t>(1, FEW_FLOATS / (numbers * std::max(in, out)));
        const bool small = incidence.columns(in)[0] * incidence.columns(out)[0] <= SMALL;
        group = small ? few : std::max(few, GROUP);
    }
};

// One matrix per axis set and thread, with these rows and columns.
struct Matrices {
    const std::vector<int64_t> rows, columns;
    std::vector<int64_t> starts{0};
    std::unique_ptr<Scratch> memory;
    std::vector<float*> place;  // thread t, set s: index t * sets + s

    Matrices(const std::vector<int64_t>& rows, const std::vector<int64_t>& columns, int threads)
        : rows(rows), columns(columns) {
        for (size_t s = 0; s < rows.size(); s++)
            starts.push_back(starts.back() + rows[s] * columns[s]);
        memory.reset(new Scratch(starts.back() * threads));
        for (int t = 0; t < threads; t++)
            for (size_t s = 0; s < rows.size(); s++)
                place.push_back(memory->get() + t * starts.back() + starts[s]);
    }

    float* const* of(int thread) const { return place.data() + thread * rows.size(); }

    // Calls `work(set, row, column, rows, columns)` with tiles of each matrix, so that transposing
    // reads or writes whole cache lines.
    template <typename Work>
    void each_tile(int threads, const Work& work) const {
        for (size_t s = 0; s < rows.size(); s++)
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int64_t row = 0; row < rows[s]; row += LINE)
                for (int64_t c = 0; c < columns[s]; c += LINE)
                    work(s, row, c, std::min<int64_t>(LINE, rows[s] - row),
                         std::min<int64_t>(LINE, columns[s] - c));
    }

    // Sets these to the transposes of `matrices` `(columns, rows)`.
    void transpose(const float* const* matrices, int threads) {
        each_tile(threads, [&](size_t s, int64_t row, int64_t c, int64_t height, int64_t width) {
            const int64_t from_step = rows[s], to_step = columns[s];
            const float* from = matrices[s] + c * from_step + row;
            float* to = place[s] + row * to_step + c;
            for (int64_t i = 0; i < height; i++)
                for (int64_t k = 0; k < width; k++) to[i * to_step + k] = from[k * from_step + i];
        });
    }

    void clear(int thread) { std::fill_n(of(thread)[0], starts.back(), 0.0f); }

    // Writes the transposes `(columns, rows)` of the sums over threads.
    void add_up(float* const* sums, int threads) const {
        each_tile(threads, [&](size_t s, int64_t row, int64_t c, int64_t height, int64_t width) {
            const int64_t from_step = columns[s], to_step = rows[s];
            float* to = sums[s] + c * to_step + row;
            for (int t = 0; t < threads; t++) {
                const float* from = of(t)[s] + row * from_step + c;
                for (int64_t k = 0; k < width; k++)
                    for (int64_t i = 0; i < height; i++)
                        to[k * to_step + i] =
                            from[i * from_step + k] + (t ? to[k * to_step + i] : 0.0f);
            }
        });
    }
};

// Sums `(2, tensors, channels)` per thread, and finally over all; none if `result` is null.
struct Sums {
    const int64_t tensors, channels;
    double* const result;
    std::vector<std::vector<double>> of_threads;

    Sums(const Incidence& incidence, int64_t channels, double* result, int threads)
        : tensors(incidence.num_tensors), channels(channels), result(result), of_threads(threads) {}

    Writing writing(int thread, const Readings* readings = nullptr, float* const* x = nullptr) {
        if (!result) return {};
        of_threads[thread].assign(2 * tensors * channels, 0.0);
        return {of_threads[thread].data(), tensors, channels, readings, x};
    }
    void add_up() const {
        if (!result) return;
        std::fill_n(result, 2 * tensors * channels, 0.0);
        for (const std::vector<double>& some : of_threads)
            for (size_t k = 0; k < some.size(); k++) result[k] += some[k];
    }
};

// Calls `work(thread, its members)`.
template <typename Work>
void for_threads(const Incidence& incidence, int64_t members, int threads, const Work& work) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        const int64_t first = members * t / threads;
        Ahead ahead;
        work(t, Members{incidence, ahead, first, members * (t + 1) / threads - first});
    }
}

}  // namespace

extern "C" {

// The layer, from tensors x of `in` channels to tensors y of `out` channels. With `coefficients`
// `(2, tensors, in)` it is applied to GELU(first * x + second). Unless it is null, `sums`
// `(2, tensors, out)` receives the sums of y and of y^2.
void layer(const int64_t* program, int64_t members, float* const* x, const float* coefficients,
           int64_t in, const float* const* weights, const float* bias, int64_t out, float* const* y,
           double* sums, int threads) {
    const Incidence incidence(program);
    const Together together(incidence, in, out);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, in};
    Sums totals(incidence, out, sums, threads);
    Matrices matrices(incidence.columns(in), incidence.columns(out), 1);
    matrices.transpose(weights, threads);
    for_threads(incidence, members, threads, [&](int t, Members mine) {
        const Writing writing = totals.writing(t);
        Features gathered(incidence, in, together.few, together.group),
            mapped(incidence, out, together.few, together.group);
        mine.each(together.group, [&](Members group) {
            const auto gather = [&](Members some) {
                some.gather(x, readings, in, true, gathered.from(some.first - group.first));
            };
            group.each(together.few, gather);
            group.map(0, 1, gathered.from(0), matrices.of(0), bias, false, out, mapped.from(0), y,
                      writing);
            group.each(together.few, [&](Members some) {
                if (group.count > together.few) gather(some);
                mapped.from(some.first - group.first);
                some.map(1, incidence.num_sets, gathered, matrices.of(0), nullptr, false, out,
                         mapped, y, writing);
            });
        });
    });
    totals.add_up();
}

// Its backward pass: gradients of the weights, the bias and, unless `to_x` is null, x. With
// `corrections` `(2, tensors, out)` the gradients of y are to_y + first + second * y. With
// coefficients, `sums_of_x` `(2, tensors, in)` receives their gradients.
void layer_backward(const int64_t* program, int64_t members, float* const* to_y,
                    const float* corrections, float* const* y, int64_t out, float* const* x,
                    const float* coefficients, int64_t in, const float* const* weights,
                    float* const* to_x, float* const* to_weights, float* to_bias, double* sums_of_x,
                    int threads) {
    const Incidence incidence(program);
    const Together together(incidence, in, out);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, in};
    const Readings corrected{corrections, y, incidence.num_tensors, out};
    Sums totals(incidence, in, sums_of_x, threads);
    Matrices sums(incidence.columns(in), incidence.columns(out), threads),
        biases({1}, {incidence.columns(out)[0]}, threads);
    for_threads(incidence, members, threads, [&](int t, Members mine) {
        Features gathered(incidence, in, together.few, GROUP * together.group);
        Features back(incidence, out, together.few, GROUP * together.group);
        Features mapped(incidence, in, together.few, together.group);
        const Writing writing = totals.writing(t, &readings, x);
        sums.clear(t), biases.clear(t);
        mine.each(GROUP * together.group, [&](Members many) {
            many.each(together.group, [&](Members group) {
                const int64_t offset = group.first - many.first;
                const auto gather = [&](Members some, float* const* to_sums) {
                    const int64_t member = some.first - many.first;
                    some.gather_both(x, readings, in, gathered.from(member), to_y, corrected, out,
                                     back.from(member), to_sums);
                };
                const bool once = group.count <= together.few;
                group.each(together.few,
                           [&](Members some) { gather(some, once ? sums.of(t) : nullptr); });
                if (to_x)
                    group.map(0, 1, back.from(offset), weights, nullptr, true, in, mapped.from(0),
                              to_x, writing);
                group.each(together.few, [&](Members some) {
                    if (!once) gather(some, sums.of(t));
                    if (!to_x) return;
                    mapped.from(some.first - group.first);
                    some.map(1, incidence.num_sets, back, weights, nullptr, true, in, mapped, to_x,
                             writing);
                });
            });
            many.outer(0, 1, gathered.from(0), back.from(0), sums.of(t));
            many.total(back, biases.of(t)[0]);
        });
    });
    sums.add_up(to_weights, threads);
    biases.add_up(&to_bias, threads);
    totals.add_up();
}

// Only GELU(first * x + second), and its backward pass: gradients of x and, in `sums`, of the
// coefficients.
void activate(const int64_t* program, int64_t members, float* const* x, const float* coefficients,
              int64_t channels, float* const* y, int threads) {
    const Incidence incidence(program);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, channels};
    for_threads(incidence, members, threads, [&](int, Members mine) {
        for (int64_t i = 0; i < incidence.num_tensors; i++) {
            const int64_t count = mine.count * incidence.numbers(i) * channels,
                          entry = mine.part(x, i, channels) - x[i];
            readings.of(i, 0).apply(x[i], entry, y[i] + entry, channels, count / channels,
                                    channels);
        }
    });
}

void activate_backward(const int64_t* program, int64_t members, float* const* to_y, float* const* x,
                       const float* coefficients, int64_t channels, float* const* to_x,
                       double* sums, int threads) {
    const Incidence incidence(program);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, channels};
    Sums totals(incidence, channels, sums, threads);
    for_threads(incidence, members, threads, [&](int t, Members mine) {
        const Writing writing = totals.writing(t, &readings, x);
        for (int64_t i = 0; i < incidence.num_tensors; i++) {
            const int64_t first = mine.first * incidence.numbers(i),
                          rows = mine.count * incidence.numbers(i);
            Members::for_panels(first, first + rows, [&](int64_t row, int64_t number) {
                const int64_t entry = row * channels, count = number * channels;
                std::copy_n(to_y[i] + entry, count, to_x[i] + entry);
                writing.finish(i, entry, to_x[i] + entry, count);
            });
        }
    });
    totals.add_up();
}

// Only the means over all positions, the smallest set, of tensors or, with coefficients, of their
// activations; and its backward pass.
void pool(const int64_t* program, int64_t members, float* const* x, const float* coefficients,
          int64_t channels, float* pooled, int threads) {
    const Incidence incidence(program);
    const Together together(incidence, channels, channels);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, channels};
    for_threads(incidence, members, threads, [&](int, Members mine) {
        Features gathered(incidence, channels, together.few, together.few);
        const int64_t width = gathered.columns[0];
        mine.each(together.few, [&](Members some) {
            some.gather(x, readings, channels, true, gathered);
            copy(gathered.place[0], width, pooled + some.first * width, width, some.count, width);
        });
    });
}

void pool_backward(const int64_t* program, int64_t members, float* to_pooled, float* const* x,
                   const float* coefficients, int64_t channels, float* const* to_x, double* sums,
                   int threads) {
    const Incidence incidence(program);
    const Together together(incidence, channels, channels);
    const Readings readings{coefficients, nullptr, incidence.num_tensors, channels};
    Sums totals(incidence, channels, sums, threads);
    std::vector<float*> tensors(incidence.num_sets);
    tensors[0] = to_pooled;
    for_threads(incidence, members, threads, [&](int t, Members mine) {
        const Writing writing = totals.writing(t, &readings, x);
        Features mapped(incidence, channels, together.few, together.few);
        mine.each(together.few, [&](Members some) {
            const Features features(incidence, incidence.columns(channels), tensors.data(),
                                    some.first);
            some.map(0, incidence.num_sets, features, nullptr, nullptr, true, channels, mapped,
                     to_x, writing);
        });
    });
    totals.add_up();
}

// The two halves of a layer that does more in between. Gathered features are separate tensors,
// except that a set of one tensor is that tensor, for which `gather` takes null.
void gather(const int64_t* program, int64_t members, float* const* x, int64_t channels,
            float* const* gathered, int threads) {
    const Incidence incidence(program);
    const Together together(incidence, channels, channels);
    for_threads(incidence, members, threads, [&](int, Members mine) {
        mine.each(together.few, [&](Members some) {
            Features features(incidence, incidence.columns(channels), gathered, some.first);
            some.gather(x, {}, channels, true, features);
        });
    });
}

void gather_backward(const int64_t* program, int64_t members, float* const* to_gathered,
                     int64_t channels, float* const* to_x, int threads) {
    const Incidence incidence(program);
    const Together together(incidence, channels, channels);
    for_threads(incidence, members, threads, [&](int, Members mine) {
        Features mapped(incidence, channels, together.few, together.few);
        mine.each(together.few, [&](Members some) {
            const Features features(incidence, incidence.columns(channels), to_gathered,
                                    some.first);
            some.map(0, incidence.num_sets, features, nullptr, nullptr, true, channels, mapped,
                     to_x);
        });
    });
}

// `depths` are the columns of gathered features: those of the carriers, and of what was
// concatenated.
void scatter(const int64_t* program, int64_t members, float* const* gathered, const int64_t* depths,
             const float* const* weights, const float* bias, int64_t out, float* const* y,
             int threads) {
    const Incidence incidence(program);
    const Together together(incidence, out, out);
    const std::vector<int64_t> columns(depths, depths + incidence.num_sets);
    Matrices matrices(columns, incidence.columns(out), 1);
    matrices.transpose(weights, threads);
    for_threads(incidence, members, threads, [&](int, Members mine) {
        Features mapped(incidence, out, together.few, mine.count);
        mine.map(0, 1, Features(incidence, columns, gathered, mine.first), matrices.of(0), bias,
                 false, out, mapped, y);
        mine.each(together.few, [&](Members some) {
            const Features features(incidence, columns, gathered, some.first);
            some.map(1, incidence.num_sets, features, matrices.of(0), nullptr, false, out,
                     mapped.from(some.first - mine.first), y);
        });
    });
}

void scatter_backward(const int64_t* program, int64_t members, float* const* to_y, int64_t out,
                      float* const* gathered, const int64_t* depths, const float* const* weights,
                      float* const* to_gathered, float* const* to_weights, float* to_bias,
                      int threads) {
    const Incidence incidence(program);
    const Together together(incidence, out, out);
    const std::vector<int64_t> columns(depths, depths + incidence.num_sets);
    Matrices sums(columns, incidence.columns(out), threads),
        biases({1}, {incidence.columns(out)[0]}, threads);
    for_threads(incidence, members, threads, [&](int t, Members mine) {
        Features back(incidence, out, together.few, mine.count);
        const auto place = [&](float* const* tensors, Members some) {
            return Features(incidence, columns, tensors, some.first);
        };
        sums.clear(t), biases.clear(t);
        mine.each(together.few, [&](Members some) {
            some.gather(to_y, {}, out, false, back.from(some.first - mine.first));
            Features result = place(to_gathered, some);
            some.outer(1, incidence.num_sets, place(gathered, some), back, sums.of(t));
            some.multiply(1, incidence.num_sets, back, weights, result);
        });
        Features result = place(to_gathered, mine);
        mine.outer(0, 1, place(gathered, mine), back.from(0), sums.of(t));
        mine.multiply(0, 1, back, weights, result);
        mine.total(back, biases.of(t)[0]);
    });
    sums.add_up(to_weights, threads);
    biases.add_up(&to_bias, threads);
}

// GELU of batch-normalised tensors `(rows, channels)`; also writes mean and variance of each
// channel.
void norm_gelu(int64_t tensors, const int64_t* rows, int64_t channels, float* const* x,
               float* const* gains, float* const* shifts, float epsilon, float* const* means,
               float* const* variances, float* const* y, int threads) {
    for (int64_t i = 0; i < tensors; i++) {
        const Normalized tensor{x[i],      rows[i],  channels,     gains[i],
                                shifts[i], means[i], variances[i], epsilon};
        tensor.moments(means[i], variances[i], threads);
        tensor.apply(y[i], threads);
    }
}

void norm_gelu_backward(int64_t tensors, const int64_t* rows, int64_t channels, float* const* x,
                        float* const* gains, float* const* shifts, float epsilon,
                        float* const* means, float* const* variances, float* const* to_y,
                        float* const* to_x, float* const* to_gains, float* const* to_shifts,
                        int threads) {
    for (int64_t i = 0; i < tensors; i++) {
        const Normalized tensor{x[i],      rows[i],  channels,     gains[i],
                                shifts[i], means[i], variances[i], epsilon};
        tensor.backward(to_y[i], to_x[i], to_gains[i], to_shifts[i], threads);
    }
}
}
