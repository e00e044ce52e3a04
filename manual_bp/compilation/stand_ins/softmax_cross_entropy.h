// Softmax and cross-entropy, and the cotangent of the logits for dy = 1, as the page softmax_cross_entropy derives them:
// a row of classes at a time, which stays in the caches.  Behind softmax.h; a program may contain this several times.
#ifndef MANUAL_BP_SOFTMAX_CROSS_ENTROPY
#define MANUAL_BP_SOFTMAX_CROSS_ENTROPY

namespace softmax_cross_entropy {

using namespace softmax;

// log p of the label; dx = each * (p - 1 at the label), which may take the place of x.  One largest logit is left out of
// the sum, so that log1p and expm1 keep the digits of a p that is nearly 1.
inline float row(int64_t n, const float* x, float* dx, int64_t label, float each) {
  float most = largest_of(x, n);
  int64_t place = place_of(most, x, n);
  float chosen = x[label];
  exponentials(n, x, most, dx);
  float its_own = dx[place];  // 1, or NaN
  dx[place] = 0;
  float total = sum_of(n, dx) + (its_own - 1), z = chosen - most - std::log1p(total);
  dx[place] = its_own;
  scale_row(n, each / (1 + total), dx);
  dx[label] = each * std::expm1(z);
  return z;
}

struct Sizes {
  int64_t rows, classes, ignored;
  bool mean;
};

// weight: of each class, if they are not all 1.
template <int threads>
inline void cost(const Sizes& s, Tensor<float> y, Tensor<float> dx, Tensor<const float> x, Tensor<const int64_t> target,
                 Tensor<const float> weight) {
  auto counts = [&](int64_t label) { return label == s.ignored ? 0.f : weight.data ? weight.data[label] : 1.f; };
  double counted = 0;
  for (int64_t i = 0; i < s.rows; i++) counted += counts(target.data[i]);
  float each = s.mean ? 1 / float(counted) : 1.f;
  double totals[threads] = {};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    double total = 0;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s.rows; i++) {
      int64_t label = target.data[i];
      float* to = dx.data + i * s.classes;
      if (label == s.ignored)
        std::fill_n(to, s.classes, 0.f);
      else
        total -= counts(label) * row(s.classes, x.data + i * s.classes, to, label, each * counts(label));
    }
    totals[thread()] = total;
  }
  double total = 0;
  for (double part : totals) total += part;
  *y.data = s.mean ? float(total / counted) : float(total);
}

}  // namespace softmax_cross_entropy
#endif
