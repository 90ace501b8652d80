// The whole Adam fit of a SIREN: forward pass, backward pass, update, stop rule. Compiled at first
// use.
//
// The points pass through the network in tiles whose activations stay in the L1 cache. Vectors run
// along the features of a layer, so that its three matrix products (forward, delta, gradient) share
// one routine: a block of the result stays in registers, one factor is broadcast, the other is read
// in vectors.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;  // 16 sums: enough to hide the latency of two multipliers
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4;
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int TILE_FLOATS = 8192;  // activations per tile: 32 KiB

typedef float Vector __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), may_alias));

int padded(int count) { return (count + LANES - 1) / LANES * LANES; }
Vector& at(float* place) { return *reinterpret_cast<Vector*>(place); }
Vector at(const float* place) { return *reinterpret_cast<const Vector*>(place); }

// A zero-initialized array, aligned to vectors.
class Floats {
  public:
    explicit Floats(int64_t count) : blocks((count + LANES - 1) / LANES) {}
    operator float*() { return blocks.data()->values; }
    operator const float*() const { return blocks.data()->values; }

  private:
    struct alignas(4 * LANES) Block {
        float values[LANES] = {};
    };
    std::vector<Block> blocks;
};

// Sine and cosine to 1e-7 for |x| < 1e6: x = n pi + r, and both change sign with odd n. pi is split
// in two so that the subtraction of n pi is exact on machines with fused multiply-add; the
// polynomials are minimax on +-pi/2.
inline void sine_cosine(Vector x, Vector& sine, Vector& cosine) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: the sum's mantissa has the nearest integer
    const Vector shifted = x * 0.318309886f + ROUND;
    const Vector n = shifted - ROUND;
    const Integers sign = (Integers)shifted << 31;
    const Vector high = x - n * 3.1415927410125732f;
    const Vector r = high + n * 8.742278e-8f;
    const Vector q = r * r;
    const Vector s =
        ((2.60005414e-6f * q - 1.98066149e-4f) * q + 8.33301729e-3f) * q - 1.66666571e-1f;
    const Vector c =
        (((-2.60771023e-7f * q + 2.47618861e-5f) * q - 1.38884035e-3f) * q + 4.16666407e-2f) * q -
        0.499999995f;
    sine = (Vector)((Integers)(s * (q * r) + r) ^ sign);
    cosine = (Vector)((Integers)(c * q + 1.0f) ^ sign);
}

// The left factor of a product: element (row, k) is data[row * row_step + k * k_step].
struct Left {
    const float* data;
    int64_t row_step, k_step;
};

// M rows and N vectors of columns of start(column) + left * right, passed to
// finish(row, column, M vectors).
template <int M, int N, class Start, class Finish>
inline void block(int row, int column, int depth, Left left, const float* right, int64_t width,
                  Start start, Finish finish) {
    Vector sum[N][M];
    for (int n = 0; n < N; n++) {
        const Vector first = start(column + n * LANES);
        for (int m = 0; m < M; m++) sum[n][m] = first;
    }
    const float* a = left.data + row * left.row_step;
    const float* b = right + column;
    for (int k = 0; k < depth; k++, a += left.k_step, b += width)
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) sum[n][m] += a[m * left.row_step] * at(b + n * LANES);
    for (int n = 0; n < N; n++) finish(row, column + n * LANES, sum[n]);
}

template <int N, class Start, class Finish>
inline void strip(int column, int rows, int depth, Left left, const float* right, int64_t width,
                  Start start, Finish finish) {
    int row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        block<ROWS, N>(row, column, depth, left, right, width, start, finish);
    for (; row + 2 <= rows; row += 2)
        block<2, N>(row, column, depth, left, right, width, start, finish);
    for (; row < rows; row++) block<1, N>(row, column, depth, left, right, width, start, finish);
}

// start + left * right for `rows` rows and `width` columns, a multiple of LANES; right is
// (depth, width).
template <class Start, class Finish>
inline void product(int rows, int depth, int width, Left left, const float* right, Start start,
                    Finish finish) {
    int column = 0;
    for (; column + 2 * LANES <= width; column += 2 * LANES)
        strip<2>(column, rows, depth, left, right, width, start, finish);
    if (column < width) strip<1>(column, rows, depth, left, right, width, start, finish);
}

Vector zeros(int) { return Vector{}; }

// Adds left * right to `result`.
void add_product(int rows, int depth, int width, Left left, const float* right, float* result) {
    product(rows, depth, width, left, right, zeros,
            [=]<int M>(int row, int column, Vector(&sum)[M]) {
                for (int m = 0; m < M; m++)
                    at(result + int64_t(row + m) * width + column) += sum[m];
            });
}

float total(Vector x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

template <int BIT, int... J>
Vector halves(Vector a, Vector b, std::integer_sequence<int, J...>) {
#if __has_builtin(__builtin_shufflevector)
    return __builtin_shufflevector(a, b, (J & BIT ? J + LANES : J)...) +
           __builtin_shufflevector(a, b, ((J & BIT ? J + LANES : J) ^ BIT)...);
#else
    return __builtin_shuffle(a, b, Integers{(J & BIT ? J + LANES : J)...}) +
           __builtin_shuffle(a, b, Integers{((J & BIT ? J + LANES : J) ^ BIT)...});
#endif
}

// Leaves the sum of vector j in lane j of x[0]: each stage adds lanes whose numbers differ in one
// bit.
template <int BIT = 1>
inline void fold(Vector (&x)[LANES]) {
    for (int i = 0; i < LANES; i += 2 * BIT)
        x[i] = halves<BIT>(x[i], x[i + BIT], std::make_integer_sequence<int, LANES>());
    if constexpr (2 * BIT < LANES) fold<2 * BIT>(x);
}

struct Layer {
    int in, out;
    int width;             // of weights: (in, padded out) if hidden, (out, padded in) if last
    int64_t weight, bias;  // offsets into the parameters and arrays of the same layout
    Floats back;           // omega * weight as (out, padded in), for the delta of the layer before
    Floats sine, slope;    // hidden: (points of the tile, width); backward() makes slope the delta
};

struct Siren {
    int num_points, tile = LANES;
    float omega;
    int64_t num_parameters = 0;  // including the padding, which stays zero
    std::vector<Layer> layers;
    Floats parameters{0}, gradient{0}, momentum{0}, variance{0};
    Floats coordinates{0}, targets{0}, inside{0}, delta{0};

    Siren(int num_layers, const int64_t* sizes, int num_points, float omega)
        : num_points(num_points), omega(omega) {
        int64_t floats = 0;
        for (int l = 0; l + 1 < num_layers; l++) floats += 2 * padded(sizes[l + 1]);
        while (tile < 64 && (tile + LANES) * floats <= TILE_FLOATS) tile += LANES;
        for (int l = 0; l < num_layers; l++) {
            const int in = sizes[l], out = sizes[l + 1];
            const bool last = l + 1 == num_layers;
            const int width = padded(last ? in : out);
            const int64_t weight = num_parameters, bias = weight + int64_t(last ? out : in) * width;
            const int64_t activations = last ? 0 : int64_t(tile) * width;
            layers.push_back({in, out, width, weight, bias, Floats(int64_t(out) * padded(in)),
                              Floats(activations), Floats(activations)});
            num_parameters = bias + padded(out);
        }
        for (Floats* each : {&parameters, &gradient, &momentum, &variance})
            *each = Floats(num_parameters);
        const int points = padded(num_points);
        coordinates = Floats(int64_t(points) * layers[0].in);
        targets = Floats(int64_t(points) * layers.back().out);
        inside = Floats(points);
        delta = Floats(int64_t(tile) * layers.back().out);
    }

    void set_signal(const float* grid, const float* values) {
        std::copy(grid, grid + int64_t(num_points) * layers[0].in, (float*)coordinates);
        for (int c = 0; c < layers.back().out; c++)
            std::copy_n(values + int64_t(c) * num_points, num_points,
                        targets + int64_t(c) * padded(num_points));
        std::fill_n((float*)inside, num_points, 1.0f);
    }

    // Calls visit(index in the row, offset in the parameters) for each parameter.
    template <class Visit>
    void walk(Visit visit) const {
        int64_t i = 0;
        for (const Layer& layer : layers) {
            const bool last = &layer == &layers.back();
            for (int o = 0; o < layer.out; o++)
                for (int k = 0; k < layer.in; k++)
                    visit(i++, layer.weight + (last ? int64_t(o) * layer.width + k
                                                    : int64_t(k) * layer.width + o));
            for (int o = 0; o < layer.out; o++) visit(i++, layer.bias + o);
        }
    }

    void transpose_weights() {
        for (size_t l = 1; l < layers.size(); l++) {
            Layer& layer = layers[l];
            const bool last = l + 1 == layers.size();
            const int64_t o_step = last ? layer.width : 1, k_step = last ? 1 : layer.width;
            const int64_t row = padded(layer.in);
            const float* weight = parameters + layer.weight;
            for (int o = 0; o < layer.out; o++)
                for (int k = 0; k < layer.in; k++)
                    layer.back[o * row + k] = omega * weight[o * o_step + k * k_step];
        }
    }

    // The input of layer l: (points of the tile, features).
    Left input(size_t l, int start) const {
        if (l == 0) return {coordinates + int64_t(start) * layers[0].in, layers[0].in, 1};
        return {layers[l - 1].sine, layers[l - 1].width, 1};
    }

    void forward(int start, int count) {
        for (size_t l = 0; l + 1 < layers.size(); l++) {
            Layer& layer = layers[l];
            const float* bias = parameters + layer.bias;
            float *sine = layer.sine, *slope = layer.slope;
            const int width = layer.width;
            const float scale = omega;
            product(
                count, layer.in, width, input(l, start), parameters + layer.weight,
                [=](int column) { return at(bias + column); },
                [=]<int M>(int row, int column, Vector(&sum)[M]) {
                    for (int m = 0; m < M; m++) {
                        const int64_t place = int64_t(row + m) * width + column;
                        sine_cosine(scale * sum[m], at(sine + place), at(slope + place));
                    }
                });
        }
    }

    // The last layer and its delta; returns the sum of squared errors over the tile.
    float residual(int start, int count) {
        const Layer& layer = layers.back();
        const float* input = layers[layers.size() - 2].sine;
        const float scale = 2.0f / (float(num_points) * layer.out);
        Vector squares{};
        for (int c = 0; c < layer.out; c++) {
            const float* weight = parameters + layer.weight + int64_t(c) * layer.width;
            const float* target = targets + int64_t(c) * padded(num_points) + start;
            Vector deltas{};
            for (int p = 0; p < count; p += LANES) {
                Vector sum[LANES] = {};
                for (int k = 0; k < layer.width; k += LANES)
                    for (int j = 0; j < LANES; j++)
                        sum[j] += at(weight + k) * at(input + int64_t(p + j) * layer.width + k);
                fold(sum);
                const Vector error =
                    (sum[0] + parameters[layer.bias + c] - at(target + p)) * at(inside + start + p);
                squares += error * error;
                deltas += at(delta + int64_t(c) * tile + p) = error * scale;
            }
            gradient[layer.bias + c] += total(deltas);
        }
        return total(squares);
    }

    void backward(int start, int count) {
        const Layer& last = layers.back();
        add_product(last.out, count, last.width, {delta, tile, 1}, layers[layers.size() - 2].sine,
                    gradient + last.weight);
        Left deltas{delta, 1, tile};
        for (size_t l = layers.size() - 1; l > 0; l--) {
            Layer& layer = layers[l - 1];
            const int width = layer.width;
            float *slope = layer.slope, *bias = gradient + layer.bias;
            product(count, layers[l].out, width, deltas, layers[l].back, zeros,
                    [=]<int M>(int row, int column, Vector(&sum)[M]) {
                        Vector points{};
                        for (int m = 0; m < M; m++) {
                            Vector& place = at(slope + int64_t(row + m) * width + column);
                            points += place = place * sum[m];
                        }
                        at(bias + column) += points;
                    });
            const Left in = input(l - 1, start);
            add_product(layer.in, count, width, {in.data, in.k_step, in.row_step}, slope,
                        gradient + layer.weight);
            deltas = {slope, width, 1};
        }
    }

    // Fills `gradient` and returns the mean squared error.
    float gradients() {
        std::fill_n((float*)gradient, num_parameters, 0.0f);
        transpose_weights();
        double squares = 0;
        for (int start = 0; start < num_points; start += tile) {
            const int count = std::min(tile, padded(num_points) - start);
            forward(start, count);
            squares += residual(start, count);
            backward(start, count);
        }
        return squares / (double(num_points) * layers.back().out);
    }

    void adam(int64_t step, double rate, double beta1, double beta2, double epsilon) {
        const float one = 1 - beta1, keep = beta2, two = 1 - beta2, tiny = epsilon;
        const float size = rate / (1 - std::pow(beta1, step)),
                    unbias = 1 / (1 - std::pow(beta2, step));
        float *__restrict w = parameters, *__restrict m = momentum, *__restrict v = variance;
        const float* __restrict g = gradient;
        for (int64_t i = 0; i < num_parameters; i++) {
            m[i] += (g[i] - m[i]) * one;
            v[i] = v[i] * keep + g[i] * g[i] * two;
            w[i] -= size * m[i] / (std::sqrt(v[i] * unbias) + tiny);
        }
    }
};

}  // namespace

// Fits rows of parameters, in state dict order, in place, each to its own targets, and counts the
// steps of each. The stop rule compares the error with the target every `check_every` steps; a NaN
// target is never reached.
extern "C" void dwszoo_fit(int64_t num_members, int64_t num_layers, const int64_t* sizes,
                           int64_t num_points, const float* coordinates, const float* targets,
                           float* rows, int64_t* steps, double omega, int64_t max_steps,
                           const double* rates, float target_psnr, int64_t check_every,
                           double beta1, double beta2, double epsilon) {
    for (int64_t member = 0; member < num_members; member++) {
        Siren siren(num_layers, sizes, num_points, omega);
        siren.set_signal(coordinates, targets + member * num_points * sizes[num_layers]);
        int64_t count = 0;
        siren.walk([&](int64_t i, int64_t place) {
            siren.parameters[place] = rows[i];
            count = i + 1;
        });
        int64_t step = 1;
        for (; step <= max_steps; step++) {
            const float error = siren.gradients();
            if (step % check_every == 1 && -10 * std::log10(error) >= target_psnr) break;
            siren.adam(step, rates[step - 1], beta1, beta2, epsilon);
        }
        siren.walk([&](int64_t i, int64_t place) { rows[i] = siren.parameters[place]; });
        rows += count;
        steps[member] = step - 1;
    }
}
