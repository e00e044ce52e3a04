// Softmax, forward and backward, as the page softmax derives it: a row at a time, which stays in the caches.  Behind
// blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_SOFTMAX
#define MANUAL_BP_SOFTMAX

namespace softmax {

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

inline void exponentials(int64_t n, const float* x, float most, float* to) {
  for (int64_t j = 0; j < n; j += LANES) {
    int64_t here = std::min(LANES, n - j);
    exponential_of_any(Vec::loadu(x + j, here) - Vec(most)).store(to + j, here);
  }
}

inline float sum_of(int64_t n, const float* x) {
  Vec total(0.f);
  for (int64_t j = 0; j < n; j += LANES) total = total + Vec::loadu(x + j, std::min(LANES, n - j));
  return sum(total);
}

inline void scale_row(int64_t n, float factor, float* x) {
  for (int64_t j = 0; j < n; j += LANES) {
    int64_t here = std::min(LANES, n - j);
    (Vec(factor) * Vec::loadu(x + j, here)).store(x + j, here);
  }
}

template <int threads>
inline void forward(int64_t rows, int64_t n, Tensor<float> y, Tensor<const float> x) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < rows; i++) {
    float* to = y.data + i * n;
    exponentials(n, x.data + i * n, largest_of(x.data + i * n, n), to);
    scale_row(n, 1 / sum_of(n, to), to);
  }
}

// dx = y (dy - sum of y dy); for the one y above 1/2, if there is one, as the sum of the others' y times how much their
// dy differ from its own, which does not cancel.
template <int threads>
inline void backward(int64_t rows, int64_t n, Tensor<float> dx, Tensor<const float> y, Tensor<const float> dy) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < rows; i++) {
    const float *y_ = y.data + i * n, *dy_ = dy.data + i * n;
    float* to = dx.data + i * n;
    Vec along(0.f), top(0.f);
    for (int64_t j = 0; j < n; j += LANES) {
      int64_t here = std::min(LANES, n - j);
      Vec share = Vec::loadu(y_ + j, here);
      along = at::vec::fmadd(share, Vec::loadu(dy_ + j, here), along);
      top = larger(top, share);
    }
    Vec mean(sum(along));
    for (int64_t j = 0; j < n; j += LANES) {
      int64_t here = std::min(LANES, n - j);
      (Vec::loadu(y_ + j, here) * (Vec::loadu(dy_ + j, here) - mean)).store(to + j, here);
    }
    float most = largest(top);
    if (most > 0.5f) {
      int64_t place = place_of(most, y_, n);
      Vec own(dy_[place]), above(0.f);
      for (int64_t j = 0; j < n; j += LANES) {
        int64_t here = std::min(LANES, n - j);
        above = at::vec::fmadd(Vec::loadu(y_ + j, here), own - Vec::loadu(dy_ + j, here), above);
      }
      to[place] = most * sum(above);
    }
  }
}

}  // namespace softmax
#endif
