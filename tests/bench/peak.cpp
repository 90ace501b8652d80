// The floating-point ceiling of one core: twelve independent chains of multiply-adds on full
// vectors.
#include <cstdint>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vector __attribute__((vector_size(4 * LANES)));

// Returns the floating-point operations done; `sink` keeps them from being optimised away.
extern "C" int64_t multiply_adds(int64_t rounds, float* sink) {
    Vector chains[12];
    for (int i = 0; i < 12; i++) chains[i] = Vector{} + float(i);
    const Vector factor = Vector{} + *sink;
    for (int64_t round = 0; round < rounds; round++)
        for (int i = 0; i < 12; i++) chains[i] = chains[i] * factor + factor;
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < LANES; j++) *sink += chains[i][j];
    return rounds * 12 * LANES * 2;
}
