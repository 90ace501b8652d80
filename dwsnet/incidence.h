// The C++ side of dwsnet.incidence, and the features of axis sets.
#pragma once

#include <memory>
#include <vector>

#include "activation.h"

namespace {

// The program, which dwsnet.incidence makes. Columns are counted in fixed entries; in memory they
// are times the channels.
struct Set {
    int64_t positions, fixed;
};
struct Carried {  // a tensor's columns in the set of all its hidden axes
    int64_t set, start, fixed;
};
struct Move {  // pools `size` positions of the larger set into one of the smaller, or spreads
    int64_t small, large, size, inner, start_small, start_large, width;
};

struct Incidence {
    int64_t num_sets, num_tensors, num_moves;
    const Set* sets;
    const Carried* tensors;
    const Move* moves;
    std::vector<std::vector<int32_t>> origin;  // per move: larger set's position to smaller's
    std::vector<int64_t> whole;  // per set: its only tensor, which needs no copy, or -1
    std::vector<int> slot;  // per move: which of its larger set's two terms it is, or -1

    explicit Incidence(const int64_t* program)
        : num_sets(program[0]), num_tensors(program[1]), num_moves(program[2]) {
        sets = reinterpret_cast<const Set*>(program + 3);
        tensors = reinterpret_cast<const Carried*>(sets + num_sets);
        moves = reinterpret_cast<const Move*>(tensors + num_tensors);
        whole.assign(num_sets, -1);
        for (int64_t i = 0; i < num_tensors; i++)
            if (tensors[i].set && tensors[i].fixed == sets[tensors[i].set].fixed)
                whole[tensors[i].set] = i;
        for (int64_t m = 0; m < num_moves; m++) {
            const int64_t inner = moves[m].inner, span = inner * moves[m].size;
            origin.emplace_back(sets[moves[m].large].positions);
            for (size_t p = 0; p < origin[m].size(); p++)
                origin[m][p] = p / span * inner + p % inner;
            int taken = 0;
            for (int64_t n = 0; n < m; n++)
                taken += moves[n].large == moves[m].large && slot[n] >= 0;
            slot.push_back(taken < 2 && moves[m].width == sets[moves[m].large].fixed ? taken : -1);
        }
    }
    std::vector<int64_t> columns(int64_t channels) const {
        std::vector<int64_t> found;
        for (int64_t s = 0; s < num_sets; s++) found.push_back(sets[s].fixed * channels);
        return found;
    }
    bool spread(int64_t s) const {  // whether smaller sets spread to it
        return std::any_of(moves, moves + num_moves,
                           [s](const Move& move) { return move.large == s; });
    }
    int64_t numbers(int64_t i) const { return sets[tensors[i].set].positions * tensors[i].fixed; }
};

// Memory that a thread keeps for its next use, as the system zeroes fresh memory page by page.
class Scratch {
    static inline thread_local std::vector<std::vector<float>> waiting;
    std::vector<float> memory;

  public:
    // In floats. Zeroing more is little next to the work on it.
    static constexpr size_t KEPT = 1 << 22;

    explicit Scratch(size_t size) {
        if (!waiting.empty()) memory.swap(waiting.back()), waiting.pop_back();
        if (memory.size() < size) memory = std::vector<float>(size);
    }
    ~Scratch() {
        if (memory.size() <= KEPT) waiting.push_back(std::move(memory));
    }
    Scratch(const Scratch&) = delete;
    float* get() { return memory.data(); }
};

// The features of each axis set, `(members, positions, columns)`, for the current members.
struct Features {
    std::vector<int64_t> columns;
    std::vector<float*> place;
    std::vector<std::vector<int32_t>> offsets;  // per move: larger set's position to term's offset
    std::unique_ptr<Scratch> memory;
    // For sets of one tensor, which is copied only if its entries are changed as they are read:
    std::vector<const float*> source;
    std::vector<Reading> reading;
    std::vector<std::unique_ptr<Scratch>> copied;

    // In new memory for `members` members, for the smallest set for `top` members.
    Features(const Incidence& incidence, int64_t channels, int64_t members, int64_t top)
        : Features(incidence.columns(channels)) {
        std::vector<int64_t> starts{0};
        for (int64_t s = 0; s < incidence.num_sets; s++) {
            const int64_t each =
                incidence.whole[s] < 0 ? incidence.sets[s].positions * columns[s] : 0;
            starts.push_back(starts.back() + each * (s ? members : top));
        }
        memory.reset(new Scratch(starts.back()));
        for (int64_t s = 0; s < incidence.num_sets; s++) place[s] = memory->get() + starts[s];
        offsets = incidence.origin;
        for (int64_t m = 0; m < incidence.num_moves; m++)
            for (int32_t& offset : offsets[m]) offset *= columns[incidence.moves[m].small];
    }

    // Views from member `first` on of tensors that hold all members, with these columns.
    Features(const Incidence& incidence, const std::vector<int64_t>& columns, float* const* tensors,
             int64_t first)
        : Features(columns) {
        for (int64_t s = 0; s < incidence.num_sets; s++)
            if (tensors[s])
                place[s] = tensors[s] + first * incidence.sets[s].positions * columns[s];
    }

    explicit Features(const std::vector<int64_t>& columns)
        : columns(columns),
          place(columns.size()),
          source(columns.size()),
          reading(columns.size()),
          copied(columns.size()) {}

    // These features, with the smallest set starting at another member.
    Features& from(int64_t member) {
        place[0] = memory->get() + member * columns[0];
        return *this;
    }

    float* rows(int64_t s, int64_t row) const { return place[s] + row * columns[s]; }

    // Rows of a set, through its `reading`.
    const float* read(int64_t s, int64_t row, int64_t number) {
        const int64_t step = columns[s];
        if (reading[s]) reading[s].apply(source[s], row * step, rows(s, row), step, number, step);
        return rows(s, row);
    }
};

}  // namespace
