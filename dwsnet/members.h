// A layer's work on a few members, by the rule of dwsnet.incidence: pooled and put side by side for each set of hidden axes,
// mapped, and spread again.
#pragma once

#include <memory>
#include <vector>

#include "products.h"

namespace {

// The program: what dwsnet.incidence knows. Columns are counted in fixed entries, which are times the channels in memory.
struct Set {
    int64_t positions, fixed;
};
struct Carried {  // where a tensor lies in the set of all its hidden axes
    int64_t set, start, fixed;
};
struct Move {  // pools `size` positions of the larger set into one of the smaller, or spreads that to them
    int64_t small, large, size, inner, start_small, start_large, width;
};

struct Incidence {
    int64_t num_sets, num_tensors, num_moves;
    const Set* sets;
    const Carried* tensors;
    const Move* moves;
    std::vector<std::vector<int32_t>> origin;  // for each move and position of the larger set, that of the smaller
    std::vector<int> slot;  // for each move: which of the two terms of its larger set it is, -1 where it is none

    explicit Incidence(const int64_t* program) : num_sets(program[0]), num_tensors(program[1]), num_moves(program[2]) {
        sets = reinterpret_cast<const Set*>(program + 3);
        tensors = reinterpret_cast<const Carried*>(sets + num_sets);
        moves = reinterpret_cast<const Move*>(tensors + num_tensors);
        for (int64_t m = 0; m < num_moves; m++) {
            const int64_t inner = moves[m].inner, span = inner * moves[m].size;
            origin.emplace_back(sets[moves[m].large].positions);
            for (size_t p = 0; p < origin[m].size(); p++) origin[m][p] = p / span * inner + p % inner;
            int taken = 0;
            for (int64_t n = 0; n < m; n++) taken += moves[n].large == moves[m].large && slot[n] >= 0;
            slot.push_back(taken < 2 && moves[m].width == sets[moves[m].large].fixed ? taken : -1);
        }
    }
    // Whether the tensor is all of its set, which then needs no other place.
    bool whole(const Carried& tensor) const { return tensor.set && tensor.fixed == sets[tensor.set].fixed; }
    std::vector<int64_t> columns(int64_t channels) const {
        std::vector<int64_t> found;
        for (int64_t s = 0; s < num_sets; s++) found.push_back(sets[s].fixed * channels);
        return found;
    }
    int64_t numbers(int64_t i) const { return sets[tensors[i].set].positions * tensors[i].fixed; }
};

// The features of each axis set, `(members, positions, columns)`, for the members at hand.
struct Features {
    std::vector<int64_t> columns;
    std::vector<float*> place;
    std::unique_ptr<float[]> memory;
    std::vector<const float*> next;  // where those of the next members will come from, if they are one tensor

    // In memory of its own for so many members, and of the smallest set for `top` members.
    Features(const Incidence& incidence, int64_t channels, int64_t members, int64_t top)
        : columns(incidence.columns(channels)), next(columns.size()) {
        std::vector<int64_t> starts{0};
        for (int64_t s = 0; s < incidence.num_sets; s++)
            starts.push_back(starts.back() + incidence.sets[s].positions * columns[s] * (s ? members : top));
        memory.reset(new float[starts.back()]);
        for (int64_t s = 0; s < incidence.num_sets; s++) place.push_back(memory.get() + starts[s]);
    }

    // From the member `first` on in tensors that hold all members, of so many columns each.
    Features(const Incidence& incidence, const std::vector<int64_t>& columns, float* const* tensors, int64_t first)
        : columns(columns), next(columns.size()) {
        for (int64_t s = 0; s < incidence.num_sets; s++)
            place.push_back(tensors[s] ? tensors[s] + first * incidence.sets[s].positions * columns[s] : nullptr);
    }

    // These, with the smallest set from another of its members on.
    Features& from(int64_t member) {
        place[0] = memory.get() + member * columns[0];
        return *this;
    }
};

// What a layer does, for the members `first` to `first + count`. Tensors of the weight space hold all members.
struct Members {
    const Incidence& incidence;
    int64_t first, count;

    // Calls `work(members)` for all of these, at most `number` at a time.
    template <typename Work>
    void each(int64_t number, const Work& work) const {
        for (int64_t m = 0; m < count; m += number) work(Members{incidence, first + m, std::min(number, count - m)});
    }

    int64_t rows(int64_t s) const { return count * incidence.sets[s].positions; }
    float* part(float* const* tensors, int64_t i, int64_t channels) const {
        return tensors[i] + first * incidence.numbers(i) * channels;
    }

    // The carriers of each set side by side, pooled over their other hidden axes by means or sums; with `signs`, entries
    // where those are not positive count as zero. A set that is one tensor is left where that lies, if it is as it is.
    void gather(float* const* tensors, float* const* signs, int64_t channels, bool mean, Features& into) const {
        for (int64_t s = incidence.num_sets - 1; s >= 0; s--) {
            for (int64_t i = 0; i < incidence.num_tensors; i++) {
                const Carried& tensor = incidence.tensors[i];
                if (tensor.set != s) continue;
                float* source = part(tensors, i, channels);
                const float* sign = signs ? part(signs, i, channels) : nullptr;
                const int64_t width = tensor.fixed * channels;
                if (incidence.whole(tensor)) into.next[s] = source + rows(s) * width;
                if (incidence.whole(tensor) && !sign) into.place[s] = source;
                else copy(source, sign, width, into.place[s] + tensor.start * channels, into.columns[s], rows(s), width);
            }
            for (int64_t m = 0; m < incidence.num_moves; m++)
                if (incidence.moves[m].large == s) pool(incidence.moves[m], channels, mean, into);
        }
    }

    void pool(const Move& move, int64_t channels, bool mean, Features& features) const {
        const float factor = mean ? 1.0f / move.size : 1.0f;
        const int64_t from_step = features.columns[move.large], to_step = features.columns[move.small];
        const int64_t stride = move.inner * from_step, width = move.width * channels;
        const float* from = features.place[move.large] + move.start_large * channels;
        float* to = features.place[move.small] + move.start_small * channels;
        for (int64_t outer = 0; outer < rows(move.small) / move.inner; outer++, from += (move.size - 1) * stride)
            for (int64_t i = 0; i < move.inner; i++, from += from_step, to += to_step) {
                const int64_t done = for_strips(width, [&]<int VECTORS>(int64_t c) {
                    Vector sums[VECTORS] = {};
                    for (int64_t k = 0; k < move.size; k++)
                        for (int v = 0; v < VECTORS; v++) sums[v] += at(from + k * stride + c + v * LANES);
                    for (int v = 0; v < VECTORS; v++) at(to + c + v * LANES) = sums[v] * factor;
                });
                for (int64_t c = done; c < width; c++) {
                    float sum = 0;
                    for (int64_t k = 0; k < move.size; k++) sum += from[k * stride + c];
                    to[c] = sum * factor;
                }
            }
    }

    // The sets from `begin` to `end`: features times the matrix `(depth, columns)` of their set, or as they are where there
    // are none, plus what is spread from smaller sets, of means a share, plus the bias of the smallest. Tensors get the
    // result or, with `relu`, its positive part.
    void map(int64_t begin, int64_t end, const Features& from, const float* const* matrices, const float* bias, bool mean,
             int64_t channels, Features& into, float* const* tensors, bool relu = false) const {
        const std::vector<float> zeros(*std::max_element(into.columns.begin(), into.columns.end()));
        for (int64_t s = begin; s < end; s++) {
            bool whole = false;  // its result is nowhere else, and spread to no other set
            for (int64_t i = 0; i < incidence.num_tensors && !whole; i++)
                if (incidence.tensors[i].set == s && incidence.whole(incidence.tensors[i])) {
                    into.place[s] = part(tensors, i, channels);
                    whole = true;
                }
            const int64_t depth = from.columns[s], width = into.columns[s];
            for (int64_t row = 0; row < rows(s); row += PANEL) {
                const int64_t number = std::min(PANEL, rows(s) - row);
                const float* left = from.place[s] + row * depth;
                float* result = into.place[s] + row * width;
                const Terms terms = start(s, row, number, s || !bias ? zeros.data() : bias, zeros.data(), mean, channels, into);
                const float* next = from.next[s] ? from.next[s] + row * depth : nullptr;
                if (matrices) product(terms, left, number, depth, matrices[s], width, result, next);
                else add(terms, left, number, width, result);
                add_others(s, row, number, mean, channels, into);
                if (whole && relu) copy(result, result, width, result, width, number, width);
            }
            for (int64_t i = 0; i < incidence.num_tensors; i++) {
                const Carried& tensor = incidence.tensors[i];
                const int64_t columns = tensor.fixed * channels;
                const float* result = into.place[s] + tensor.start * channels;
                if (tensor.set == s && !whole)
                    copy(result, relu ? result : nullptr, width, part(tensors, i, channels), columns, rows(s), columns);
            }
        }
    }

    // Calls `work(r, place)` with where each row of the larger set of a move comes from in the smaller.
    template <typename Work>
    void for_origins(int64_t m, int64_t row, int64_t number, int64_t channels, const Features& features, const Work& work) const {
        const Move& move = incidence.moves[m];
        const int64_t step = features.columns[move.small], positions = incidence.sets[move.large].positions;
        const int64_t each = incidence.sets[move.small].positions * step;
        const float* base = features.place[move.small] + move.start_small * channels + row / positions * each;
        for (int64_t r = 0, p = row % positions; r < number; r++, p++) {
            if (p == positions) p = 0, base += each;
            work(r, base + incidence.origin[m][p] * step);
        }
    }

    Terms start(int64_t s, int64_t row, int64_t number, const float* first, const float* second, bool mean, int64_t channels,
                const Features& into) const {
        Terms terms;
        for (int slot = 0; slot < 2; slot++) {
            std::fill_n(terms.rows[slot], number, slot ? second : first);
            terms.factors[slot] = 1.0f;
        }
        for (int64_t m = 0; m < incidence.num_moves; m++)
            if (const int slot = incidence.slot[m]; incidence.moves[m].large == s && slot >= 0) {
                if (mean) terms.factors[slot] = 1.0f / incidence.moves[m].size;
                for_origins(m, row, number, channels, into, [&](int64_t r, const float* term) { terms.rows[slot][r] = term; });
            }
        return terms;
    }

    // Adds what is spread to some of the columns, or by a third move and more.
    void add_others(int64_t s, int64_t row, int64_t number, bool mean, int64_t channels, Features& into) const {
        for (int64_t m = 0; m < incidence.num_moves; m++) {
            const Move& move = incidence.moves[m];
            if (move.large != s || incidence.slot[m] >= 0) continue;
            const float factor = mean ? 1.0f / move.size : 1.0f;
            float* result = into.place[s] + row * into.columns[s] + move.start_large * channels;
            for_origins(m, row, number, channels, into, [&](int64_t r, const float* term) {
                for (int64_t c = 0; c < move.width * channels; c++) result[r * into.columns[s] + c] += term[c] * factor;
            });
        }
    }

    // Features of the sets from `begin` to `end` times their matrices, and nothing else.
    void multiply(int64_t begin, int64_t end, const Features& from, const float* const* matrices, Features& into) const {
        const std::vector<float> zeros(*std::max_element(into.columns.begin(), into.columns.end()));
        Terms none{{}, {1.0f, 1.0f}};
        for (auto& rows : none.rows) std::fill_n(rows, PANEL, zeros.data());
        for (int64_t s = begin; s < end; s++)
            for (int64_t row = 0; row < rows(s); row += PANEL)
                product(none, from.place[s] + row * from.columns[s], std::min(PANEL, rows(s) - row), from.columns[s], matrices[s],
                        into.columns[s], into.place[s] + row * into.columns[s], nullptr);
    }

    // Adds, for the sets from `begin` to `end`, left transposed times right.
    void outer(int64_t begin, int64_t end, const Features& left, const Features& right, float* const* sums) const {
        for (int64_t s = begin; s < end; s++)
            add_outer(left.place[s], left.columns[s], right.place[s], right.columns[s], rows(s), sums[s]);
    }

    // Adds the features of the smallest set.
    void total(const Features& features, float* sums) const {
        for (int64_t k = 0; k < rows(0) * features.columns[0]; k++) sums[k % features.columns[0]] += features.place[0][k];
    }
};

}  // namespace
