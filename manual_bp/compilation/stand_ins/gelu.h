// GELU and its derivative, by one exponential.  Behind blocks.h; a program may contain this text several times.
//
//     phi(x) = e^(-x^2/2) / sqrt(2 pi)        Phi(-a) = e^(-a^2/2) M(a),  Phi(a) = 1 - Phi(-a)        a = |x|
//
// M is half the scaled complementary error function of a/sqrt(2): a polynomial in 1/(a + 2.5), over a + 2.5.
#ifndef MANUAL_BP_GELU
#define MANUAL_BP_GELU

namespace gelu {

using namespace blocks;
constexpr float BEYOND = 15.f;  // e^(-15^2/2) is below the smallest subnormal number
constexpr float SHIFT = 2.5f, FIRST = 1 / (BEYOND + SHIFT), LAST = 1 / SHIFT;
constexpr int64_t MANY = 1024;  // elements at a time, where there are no rows
// (a + 2.5) M(a) by powers of u, which goes from -1 to 1 as 1/(a + 2.5) goes from FIRST to LAST: interpolated at the
// zeros of a Chebyshev polynomial.  It is off by 0.3 roundings, and 4 with those of its evaluation.
constexpr float MILLS[] = {0.7712726593017578f,    0.4034144878387451f,    0.09263308346271515f,
                           -0.011421335861086845f, -0.007853028364479542f, 0.0015866527101024985f,
                           0.0006749466992914677f, -0.00031502475030720234f, -3.209597707609646e-05f,
                           3.970788748119958e-05f};

// Phi(x), and x phi(x).  Digits: x^2 is square + rest without a rounding, and e^(-x^2/2) = first second is two factors
// that are normal numbers, so that a tail keeps its digits until it is subnormal itself.
inline void parts(const Vec& x, Vec& distribution, Vec& slope) {
  Vec within = at::vec::clamp(x, Vec(-BEYOND), Vec(BEYOND)), square = within * within;
  Vec rest = at::vec::fmsub(within, within, square), second = exponential(square * Vec(-0.25f));
  Vec first = at::vec::fmadd(second * Vec(-0.5f), rest, second);
  Vec shifted = inverse(within.abs() + Vec(SHIFT));
  Vec u = at::vec::fmadd(shifted, Vec(2 / (LAST - FIRST)), Vec(-(LAST + FIRST) / (LAST - FIRST)));
  Vec mills(MILLS[9]);
  for (int i = 8; i >= 0; i--) mills = at::vec::fmadd(mills, u, Vec(MILLS[i]));
  Vec tail = first * (mills * shifted) * second;
  // 1 - tail, or 0 + tail below 0: by signs, for what selects by a mask has the next numbers wait for these.
  Vec sign = x & Vec(-0.f);
  distribution = at::vec::clamp_min(sign | Vec(1.f), Vec(0.f)) - (sign | tail);
  slope = within * first * Vec(0.3989422804014327f) * second;
}

// Does `run(begin, number, bias)` for all elements, a row or MANY at a time.
template <int threads, typename Run>
inline void for_rows(int64_t elements, int64_t columns, const float* bias, const Run& run) {
  int64_t at_once = bias ? columns : MANY;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t begin = 0; begin < elements; begin += at_once) {
    int64_t here = std::min(at_once, elements - begin);
    for (int64_t j = 0; j < here; j += LANES) {
      int64_t number = std::min(LANES, here - j);
      run(begin + j, number, bias ? Vec::loadu(bias + j, number) : Vec(0.f));
    }
  }
}

// y of x + bias.
template <int threads>
inline void forward(int64_t elements, int64_t columns, Tensor<float> y, Tensor<const float> x,
                    Tensor<const float> bias) {
  for_rows<threads>(elements, columns, bias.data, [&](int64_t at, int64_t number, const Vec& b) {
    Vec z = Vec::loadu(x.data + at, number) + b, distribution, slope;
    parts(z, distribution, slope);
    (z * distribution).store(y.data + at, number);
  });
}

inline Vec cotangent(const Vec& x, const Vec& dy) {
  Vec distribution, slope;
  parts(x, distribution, slope);
  return dy * (distribution + slope);
}

template <int threads>
inline void backward(int64_t elements, int64_t columns, Tensor<float> dx, Tensor<const float> x,
                     Tensor<const float> dy, Tensor<const float> bias) {
  for_rows<threads>(elements, columns, bias.data, [&](int64_t at, int64_t number, const Vec& b) {
    cotangent(Vec::loadu(x.data + at, number) + b, Vec::loadu(dy.data + at, number)).store(dx.data + at, number);
  });
}

// And dbias, the sum of the rows of dx, which are in the registers here.
template <int threads>
inline void backward_with_bias(int64_t elements, int64_t columns, Tensor<float> dx, Tensor<float> dbias,
                               Tensor<const float> x, Tensor<const float> dy, Tensor<const float> bias) {
  int64_t rows = elements / columns;
  std::unique_ptr<float[]> parts(new float[threads * columns]());
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float* part = parts.get() + thread() * columns;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j += LANES) {
        int64_t at = i * columns + j, number = std::min(LANES, columns - j);
        Vec z = Vec::loadu(x.data + at, number) + Vec::loadu(bias.data + j, number);
        Vec d = cotangent(z, Vec::loadu(dy.data + at, number));
        d.store(dx.data + at, number);
        (Vec::loadu(part + j, number) + d).store(part + j, number);
      }
  }
  for (int64_t j = 0; j < columns; j++) {
    float sum = 0;
    for (int t = 0; t < threads; t++) sum += parts[t * columns + j];
    dbias.data[j] = sum;
  }
}

}  // namespace gelu
#endif
