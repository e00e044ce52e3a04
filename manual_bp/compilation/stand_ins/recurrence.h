// What recurrent layers in C++ share: each thread takes its examples through all steps, and waits for nobody.  Behind
// blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_RECURRENCE
#define MANUAL_BP_RECURRENCE

namespace recurrence {

using namespace blocks;
constexpr int64_t PANEL = 4 * LANES;    // columns of a packed matrix that lie together
constexpr int64_t DEPTH = 128;          // of a product, whose panel then is 32 KB
constexpr int64_t EXAMPLES = 64;        // that go through all steps together, at most

static_assert(EXAMPLES <= DEPTH, "a step of them is a stretch of rows");

struct Sizes {
  int64_t time, batch, in, hidden;
  int64_t parts(int threads) const {
    return std::max(std::min<int64_t>(threads, batch), (batch + EXAMPLES - 1) / EXAMPLES);
  }
};

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
// e^z - 1 and e^z for z <= 0, both with all digits, as blocks::exponential.
inline void exponentials(const Vec& any, Vec& less_one, Vec& whole) {
  Vec z = at::vec::clamp_min(any, Vec(-104.f)), n = (z * Vec(1.44269504f)).round();
  Vec r = at::vec::fmadd(n, Vec(2.12194440e-4f), at::vec::fmadd(n, Vec(-0.693359375f), z));
  Vec p(1 / 5040.f);
  for (float coefficient : {1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 0.5f}) p = at::vec::fmadd(p, r, Vec(coefficient));
  p = at::vec::fmadd(p * r, r, r);  // e^r - 1
  Vec power = scaled(Vec(1.f), n);
  less_one = at::vec::fmadd(p, power, power - Vec(1.f));
  whole = scaled(p + Vec(1.f), n);
}
#else
inline void exponentials(const Vec& z, Vec& less_one, Vec& whole) {
  less_one = z.expm1();
  whole = z.exp();
}
#endif

// `negative` where the sign of x is set, else `positive`.  By the sign itself: of a comparison at::vec makes a vector, and
// of that a mask again.
inline Vec by_sign(const Vec& x, const Vec& positive, const Vec& negative) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), positive, negative);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_blendv_ps(positive, negative, x);
#else
  return Vec::blendv(positive, negative, x < Vec(0.f));
#endif
}

// sigma(x), and sigma(-x), which is what is left of 1 with all its digits; their product is the slope.
inline void sigmoid(const Vec& x, Vec& value, Vec& rest) {
  Vec sign = x & Vec(-0.f), e = exponential_of_any(sign ^ x ^ Vec(-0.f)), large = inverse(e + Vec(1.f));
  Vec small = e * large;
  value = by_sign(x, large, small);
  rest = by_sign(x, small, large);
}

// tanh(x), and 1/cosh^2(x).
inline void tanh(const Vec& x, Vec& value, Vec& slope) {
  Vec sign = x & Vec(-0.f), less_one, e;
  Vec size = sign ^ x;
  exponentials(Vec(-2.f) * size, less_one, e);
  Vec share = inverse(e + Vec(1.f));
  value = sign ^ (Vec(-0.f) ^ (less_one * share));
  slope = Vec(4.f) * e * share * share;
}

// Asks for what the next step writes, or reads, of the same examples and units.  What all steps keep lies in no cache of a
// core, and is met in pieces that no processor foresees.  With this and `by_sign` an lstm of 128 units takes 0.94 of the
// time that it took, a gru 0.97 (64 steps, batch 32, a Sapphire Rapids).
inline void will_write(const float* at) { __builtin_prefetch(at, 1); }
inline void will_read(const float* at) { __builtin_prefetch(at, 0, 2); }

// (gates hidden, columns) as forward reads it: [vector of units][column][gate][unit], 0 for units that there are not.
template <int gates>
inline void pack_gates(int64_t hidden, int64_t columns, const float* weight, float* to) {
  for (int64_t first = 0; first < hidden; first += LANES)
    for (int64_t k = 0; k < columns; k++)
      for (int64_t gate = 0; gate < gates; gate++)
        for (int64_t unit = first; unit < first + LANES; unit++, to++)
          *to = unit < hidden ? weight[(gate * hidden + unit) * columns + k] : 0.f;
}

// Rows in panels of PANEL columns, the last one only as wide as its vectors: [panel][row][column].  Panels have `all`
// rows, of which these begin at `first`.
inline void pack_panels(int64_t rows, int64_t columns, const float* x, int64_t stride, float* to, int64_t all,
                        int64_t first = 0) {
  for (int64_t from = 0; from < columns; from += PANEL) {
    int64_t width = std::min(PANEL, up(columns - from, LANES)), here = std::min(width, columns - from);
    float* row = to + from * all + first * width;
    for (int64_t r = 0; r < rows; r++, row += width) {
      std::copy_n(x + r * stride + from, here, row);
      std::fill(row + here, row + width, 0.f);
    }
  }
}

// total += x W for M rows and a vector of units of each gate.
template <int M, int gates>
inline void add_product(Vec (&total)[M][gates], const float* x, int64_t stride, int64_t columns, const float* weight) {
  for (int64_t k = 0; k < columns; k++, weight += gates * LANES) add_outer(total, x + k, stride, weight);
}

// to = da W, or to += da W, for rows of da, W in panels.
inline void through(int64_t rows, int64_t gates, int64_t columns, const float* da, int64_t line, const float* weight,
                    float* to, int64_t stride, bool add = false) {
  for (int64_t from = 0; from < columns; from += PANEL) {
    int64_t width = std::min(PANEL, up(columns - from, LANES));
    for (int64_t k = 0; k < gates; k += DEPTH) {
      int64_t depth = std::min(DEPTH, gates - k);
      const float* panel = weight + from * gates + k * width;
      product(rows, width / LANES, da + k, line, 1, panel, width, to + from, stride, depth, add || k > 0);
    }
  }
}

// dW += da^T x, x in panels of `rows` rows.
inline void add_weight(int64_t rows, int64_t gates, int64_t columns, const float* da, int64_t line, const float* x,
                       float* dweight, int64_t stride) {
  for (int64_t from = 0; from < columns; from += PANEL) {
    int64_t width = std::min(PANEL, up(columns - from, LANES));
    product(gates, width / LANES, da, 1, line, x + from * rows, width, dweight + from, stride, rows, true);
  }
}

}  // namespace recurrence
#endif
