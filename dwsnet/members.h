// A layer's work on a few members, by the rule of dwsnet.incidence: for each set of hidden axes,
// features are pooled, concatenated, mapped and spread.
#pragma once

#include "incidence.h"

namespace {

// A layer on the members `first` to `first + count`. Tensors of the weight space hold all members.
struct Members {
    const Incidence& incidence;
    Ahead& ahead;
    int64_t first, count;

    // Calls `work(members)` for all members, at most `number` at a time.
    template <typename Work>
    void each(int64_t number, const Work& work) const {
        for (int64_t m = 0; m < count; m += number)
            work(Members{incidence, ahead, first + m, std::min(number, count - m)});
    }

    int64_t rows(int64_t s) const { return count * incidence.sets[s].positions; }
    float* part(float* const* tensors, int64_t i, int64_t channels) const {
        return tensors[i] + first * incidence.numbers(i) * channels;
    }

    // Calls `work(row, number)` for one panel of rows at a time.
    template <typename Work>
    static void for_panels(int64_t row, int64_t end, const Work& work) {
        for (; row < end; row += PANEL) work(row, std::min(PANEL, end - row));
    }

    // Concatenates the carriers of each set, pooled over their other hidden axes by means or sums.
    void gather(float* const* tensors, const Readings& readings, int64_t channels, bool mean,
                Features& into) const {
        ahead.clear();
        for (int64_t s = incidence.num_sets - 1; s >= 0; s--) {
            collect(s, tensors, readings, channels, into);
            for_panels(0, rows(s), [&](int64_t row, int64_t number) {
                pool(s, into.read(s, row, number), row, number, channels, mean, into);
            });
        }
    }

    // Gathers a layer's inputs and the gradients of its outputs. If given, `sums` accumulate the
    // one transposed times the other for all sets but the smallest, while the rows are in the L1
    // cache.
    void gather_both(float* const* x, const Readings& readings, int64_t in, Features& gathered,
                     float* const* to_y, const Readings& corrections, int64_t out, Features& back,
                     float* const* sums) const {
        ahead.clear();
        for (int64_t s = incidence.num_sets - 1; s >= 0; s--) {
            collect(s, x, readings, in, gathered);
            collect(s, to_y, corrections, out, back);
            for_panels(0, rows(s), [&](int64_t row, int64_t number) {
                const float *left = gathered.read(s, row, number),
                            *right = back.read(s, row, number);
                pool(s, left, row, number, in, true, gathered);
                pool(s, right, row, number, out, false, back);
                if (s && sums)
                    add_outer(left, gathered.columns[s], right, back.columns[s], number, sums[s],
                              ahead);
            });
        }
    }

    // Collects the tensors of a set, and zeros what it will be pooled into.
    void collect(int64_t s, float* const* tensors, const Readings& readings, int64_t channels,
                 Features& into) const {
        for (int64_t i = 0; i < incidence.num_tensors; i++) {
            const Carried& tensor = incidence.tensors[i];
            if (tensor.set != s) continue;
            float* source = part(tensors, i, channels);
            const Reading reading = readings.of(i, source - tensors[i]);
            const int64_t width = tensor.fixed * channels, step = into.columns[s];
            if (incidence.whole[s] == i) {
                into.source[s] = source, into.reading[s] = reading;
                ahead.add(source + rows(s) * width, rows(s) * width);
                if (reading.beside) ahead.add(reading.beside + rows(s) * width, rows(s) * width);
                if (reading && !into.copied[s]) into.copied[s].reset(new Scratch(rows(s) * width));
                into.place[s] = reading ? into.copied[s]->get() : source;
            } else {
                reading.apply(source, 0, into.place[s] + tensor.start * channels, step, rows(s),
                              width);
            }
        }
        for (int64_t m = 0; m < incidence.num_moves; m++) {
            const Move& move = incidence.moves[m];
            if (move.large != s) continue;
            float* to = into.place[move.small] + move.start_small * channels;
            for (int64_t r = 0; r < rows(move.small); r++, to += into.columns[move.small])
                std::fill_n(to, move.width * channels, 0.0f);
        }
    }

    // Adds `number` rows of a set, from `row` on, to those of smaller sets.
    void pool(int64_t s, const float* features, int64_t row, int64_t number, int64_t channels,
              bool mean, Features& into) const {
        for (int64_t m = 0; m < incidence.num_moves; m++) {
            const Move& move = incidence.moves[m];
            if (move.large != s) continue;
            const float factor = mean ? 1.0f / move.size : 1.0f;
            const int64_t step = into.columns[s], width = move.width * channels,
                          small = into.columns[move.small];
            const int64_t span = move.inner * move.size, positions = incidence.sets[s].positions;
            float* base = into.place[move.small] + move.start_small * channels;
            const float* from = features + move.start_large * channels;
            for (int64_t r = row; r < row + number;) {  // a span: every inner-th row goes together
                const int64_t left = std::min(span - r % span, row + number - r);
                const int32_t* origin = incidence.origin[m].data() + r % positions;
                float* member = base + r / positions * incidence.sets[move.small].positions * small;
                for (int64_t i = 0; i < std::min(move.inner, left); i++, from += step)
                    add_rows(from, move.inner * step, (left - i - 1) / move.inner + 1, width,
                             factor, member + origin[i] * small);
                from += (left - std::min(move.inner, left)) * step;
                r += left;
            }
        }
    }

    // Computes the sets from `begin` to `end`: features (zero for sets without) times the matrix
    // `(depth, columns)` of the set, if any, plus what smaller sets spread (divided by the count
    // for means), plus the bias of the smallest set. The result is written to the tensors, through
    // `writing`.
    void map(int64_t begin, int64_t end, const Features& from, const float* const* matrices,
             const float* bias, bool mean, int64_t channels, Features& into, float* const* tensors,
             const Writing& writing = {}) const {
        const std::vector<float> zeros(*std::max_element(into.columns.begin(), into.columns.end()));
        for (int64_t s = begin; s < end; s++) {
            const int64_t whole = incidence.whole[s], depth = from.columns[s],
                          width = into.columns[s];
            if (whole >= 0)
                into.place[s] = part(tensors, whole, channels);  // the result's only place
            const int64_t each =
                incidence.spread(s) ? incidence.sets[s].positions : rows(s);  // with equal terms
            for (int64_t start = 0; start < rows(s); start += each) {
                const Terms terms = terms_of(s, start, s || !bias ? zeros.data() : bias,
                                             zeros.data(), mean, channels, into);
                for_panels(start, start + each, [&](int64_t row, int64_t number) {
                    const Terms here = terms.from(row - start);
                    const float* left = from.place[s] ? from.rows(s, row) : zeros.data();
                    float* result = into.rows(s, row);
                    if (matrices)
                        product(here, left, number, depth, matrices[s], width, result, whole >= 0,
                                ahead);
                    else
                        add(here, left, from.place[s] ? width : 0, number, width, result);
                    add_others(s, start, row, number, mean, channels, into);
                    if (whole >= 0)
                        writing.finish(whole, result - tensors[whole], result, number * width);
                });
            }
            if (whole < 0) take(s, channels, into, tensors, writing);
        }
    }

    // Writes the tensors of a set from its result.
    void take(int64_t s, int64_t channels, const Features& from, float* const* tensors,
              const Writing& writing) const {
        for (int64_t i = 0; i < incidence.num_tensors; i++) {
            const Carried& tensor = incidence.tensors[i];
            if (tensor.set != s) continue;
            const int64_t step = from.columns[s], width = tensor.fixed * channels;
            const float* result = from.place[s] + tensor.start * channels;
            float* to = part(tensors, i, channels);
            copy(result, step, to, width, rows(s), width);
            writing.finish(i, to - tensors[i], to, rows(s) * width);
        }
    }

    // The rows of a move's smaller set that are spread to those of the larger, from a member's
    // first row on.
    Term term(int64_t m, int64_t row, bool mean, int64_t channels, const Features& features) const {
        const Move& move = incidence.moves[m];
        const int64_t member =
            row / incidence.sets[move.large].positions * incidence.sets[move.small].positions;
        return {features.place[move.small] + move.start_small * channels +
                    member * features.columns[move.small],
                mean ? 1.0f / move.size : 1.0f, features.offsets[m].data(), 1};
    }

    Terms terms_of(int64_t s, int64_t row, const float* first, const float* second, bool mean,
                   int64_t channels, const Features& into) const {
        Terms terms{{first}, {second}};
        for (int64_t m = 0; m < incidence.num_moves; m++)
            if (const int slot = incidence.slot[m]; incidence.moves[m].large == s && slot >= 0)
                (slot ? terms.second : terms.first) = term(m, row, mean, channels, into);
        return terms;
    }

    // Adds to rows of the member whose rows start at `start` what is spread to some of their
    // columns only, or by a third or further move.
    void add_others(int64_t s, int64_t start, int64_t row, int64_t number, bool mean,
                    int64_t channels, Features& into) const {
        for (int64_t m = 0; m < incidence.num_moves; m++) {
            const Move& move = incidence.moves[m];
            if (move.large != s || incidence.slot[m] >= 0) continue;
            const Term other = term(m, start, mean, channels, into).from(row - start);
            float* result = into.rows(s, row) + move.start_large * channels;
            for (int64_t r = 0; r < number; r++, result += into.columns[s])
                add_rows(other.row(r), 0, 1, move.width * channels, other.factor, result);
        }
    }

    // Multiplies the features of the sets from `begin` to `end` by their matrices.
    void multiply(int64_t begin, int64_t end, const Features& from, const float* const* matrices,
                  Features& into) const {
        const std::vector<float> zeros(*std::max_element(into.columns.begin(), into.columns.end()));
        for (int64_t s = begin; s < end; s++)
            for_panels(0, rows(s), [&](int64_t row, int64_t number) {
                product({{zeros.data()}, {zeros.data()}}, from.rows(s, row), number,
                        from.columns[s], matrices[s], into.columns[s], into.rows(s, row), false,
                        ahead);
            });
    }

    // Adds left transposed times right for the sets from `begin` to `end`.
    void outer(int64_t begin, int64_t end, const Features& left, const Features& right,
               float* const* sums) const {
        for (int64_t s = begin; s < end; s++)
            for_panels(0, rows(s), [&](int64_t row, int64_t number) {
                add_outer(left.rows(s, row), left.columns[s], right.rows(s, row), right.columns[s],
                          number, sums[s], ahead);
            });
    }

    // Sums the features of the smallest set over members.
    void total(const Features& features, float* sums) const {
        for (int64_t k = 0; k < rows(0) * features.columns[0]; k++)
            sums[k % features.columns[0]] += features.place[0][k];
    }
};

}  // namespace
