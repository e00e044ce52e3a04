// Softmax and cross-entropy, and the cotangent of the logits for dy = 1, as the page softmax_cross_entropy derives them: a
// row of classes at a time, which stays in the caches.  Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_SOFTMAX_CROSS_ENTROPY
#define MANUAL_BP_SOFTMAX_CROSS_ENTROPY

namespace softmax_cross_entropy {

using namespace blocks;

inline float largest_of(const float* x, int64_t n) {
  if (n < LANES) return *std::max_element(x, x + n);
  Vec top = Vec::loadu(x + n - LANES);
  for (int64_t j = 0; j + LANES <= n; j += LANES) top = larger(top, Vec::loadu(x + j));
  return largest(top);
}

// Where a number stands; at the beginning if nowhere, as of a NaN.
inline int64_t place_of(float number, const float* x, int64_t n) {
  int64_t j = 0;
  while (j + LANES <= n && (Vec::loadu(x + j) - Vec(number)).zero_mask() == 0) j += LANES;
  for (; j < n; j++)
    if (x[j] == number) return j;
  return 0;
}

// log p of the label; dx = each * (p - 1 at the label).  One largest logit is left out of the sum, so that log1p and expm1
// keep the digits of a p that is nearly 1.
inline float row(int64_t n, const float* x, float* dx, int64_t label, float each) {
  float most = largest_of(x, n);
  int64_t place = place_of(most, x, n);
  for (int64_t j = 0; j < n; j += LANES) {
    int64_t here = std::min(LANES, n - j);
    exponential_of_any(Vec::loadu(x + j, here) - Vec(most)).store(dx + j, here);
  }
  float its_own = dx[place];  // 1, or NaN
  dx[place] = 0;
  Vec others(0.f);
  for (int64_t j = 0; j < n; j += LANES) others = others + Vec::loadu(dx + j, std::min(LANES, n - j));
  dx[place] = its_own;
  float total = sum(others) + (its_own - 1), z = x[label] - most - std::log1p(total);
  Vec factor(each / (1 + total));
  for (int64_t j = 0; j < n; j += LANES) {
    int64_t here = std::min(LANES, n - j);
    (factor * Vec::loadu(dx + j, here)).store(dx + j, here);
  }
  dx[label] = each * std::expm1(z);
  return z;
}

struct Sizes {
  int64_t rows, classes, ignored;
  bool mean;
};

template <int threads>
inline void cost(const Sizes& s, Tensor<float> y, Tensor<float> dx, Tensor<const float> x, Tensor<const int64_t> target) {
  int64_t counted = 0;
  for (int64_t i = 0; i < s.rows; i++) counted += target.data[i] != s.ignored;
  float each = s.mean ? 1 / float(counted) : 1.f;
  double totals[threads] = {};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    double total = 0;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s.rows; i++) {
      float* to = dx.data + i * s.classes;
      if (target.data[i] == s.ignored)
        std::fill_n(to, s.classes, 0.f);
      else
        total -= row(s.classes, x.data + i * s.classes, to, target.data[i], each);
    }
    totals[thread()] = total;
  }
  double total = 0;
  for (double part : totals) total += part;
  *y.data = s.mean ? float(total / double(counted)) : float(total);
}

}  // namespace softmax_cross_entropy
#endif
