// Products of matrices that lie in the caches, in registers: what the functions in C++ share.
#ifndef MANUAL_BP_BLOCKS
#define MANUAL_BP_BLOCKS
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace blocks {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t LANES = Vec::size();
constexpr int SUMS = LANES == 16 ? 24 : 12;  // registers that hold sums, of the 32 of AVX-512 or the 16 of AVX2
constexpr int MOST_ROWS = 8;                 // of a product at a time
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Up to four axes, elements of the last one side by side.
template <typename T>
struct Tensor {
  T* data;
  int64_t strides[4];
};

// Which thread of a parallel region this is.
inline int thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The larger of two numbers, where a NaN need not win: by one operation, while at::vec::maximum makes a mask a vector,
// for which a Xeon waits until all that was in its register before is done (an exponential took six times as long).
inline Vec larger(const Vec& x, const Vec& y) { return at::vec::clamp_min(y, x); }

inline float sum(const Vec& x) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, x);
}

inline float largest(const Vec& x) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return larger(a, b); }, x);
}

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
// p 2^n for a whole n >= -150, rounded once.
inline Vec scaled(const Vec& p, const Vec& n) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_scalef_ps(p, n);
#else
  auto power = [](__m256i k) {
    return Vec(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, _mm256_set1_epi32(127)), 23)));
  };
  __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
  return p * power(half) * power(_mm256_sub_epi32(whole, half));
#endif
}
#endif

// 1/x of a normal number, within one rounding of the quotient.
inline Vec inverse(const Vec& x) {
#if defined(CPU_CAPABILITY_AVX512)
  Vec guess = _mm512_rcp14_ps(x);  // a division takes as long as twenty other operations
  return at::vec::fmadd(guess, at::vec::fnmadd(guess, x, Vec(1.f)), guess);
#else
  return Vec(1.f) / x;
#endif
}

// e^z for -104 <= z <= 0, in the registers; a call of the library's function took four times as long.  z = n log 2 + r with
// |r| <= log(2)/2, and the series of e^r, of which the first term left out is below 6e-9.
inline Vec exponential(const Vec& z) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  Vec n = (z * Vec(1.44269504f)).round();
  // log 2 as 355/512 and what is left; n times the first has no rounding.
  Vec r = at::vec::fmadd(n, Vec(2.12194440e-4f), at::vec::fmadd(n, Vec(-0.693359375f), z));
  Vec p(1 / 5040.f);
  for (float coefficient : {1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 0.5f, 1.f, 1.f})
    p = at::vec::fmadd(p, r, Vec(coefficient));
  return scaled(p, n);
#else
  return z.exp();
#endif
}

// Likewise for any z <= 0.  What is rounded to 0, as all that -inf forbids, is taken as 0 beforehand: a processor makes
// a number below the normal ones by microcode, in a hundred times the time.
inline Vec exponential_of_any(const Vec& z) {
#if defined(CPU_CAPABILITY_AVX512)
  __mmask16 counts = _mm512_cmp_ps_mask(z, Vec(-104.f), _CMP_NLE_UQ);  // a NaN does
  return _mm512_maskz_mov_ps(counts, exponential(Vec(_mm512_maskz_mov_ps(counts, z))));
#elif defined(CPU_CAPABILITY_AVX2)
  Vec counts = _mm256_cmp_ps(z, Vec(-104.f), _CMP_NLE_UQ);
  return exponential(z & counts) & counts;
#else
  return z.exp();
#endif
}

// Products.  c = a b, or c += a b: a(m, k) lies at m * am + k * ak, and rows of b and c have the strides bk and cm.

// Over what a product is summed: so many k, or several such stretches, from one to the next so far apart in a and in b.
struct Depth {
  int64_t length, stretches, apart_in_a, apart_in_b;
  Depth(int64_t length, int64_t stretches = 1, int64_t apart_in_a = 0, int64_t apart_in_b = 0)
      : length(length), stretches(stretches), apart_in_a(apart_in_a), apart_in_b(apart_in_b) {}
};

// x, which is read once and then stays in its register.  Left to itself gcc 12 reads it from memory again for each row that
// it is multiplied with, and a core reads two vectors a cycle, as many as it multiplies: 3 rows by 4 vectors made 72 of the
// 93 GFLOP/s that 6 by 2 made, and read once 90 (AVX2, Zen 3); 4 by 4 made 108 of 239 (AVX-512, Zen 5).
inline Vec read_once(Vec x) {
#if defined(__GNUC__) && defined(CPU_CAPABILITY_AVX512)
  __m512 held = x;
  asm("" : "+v"(held));
  x = held;
#elif defined(__GNUC__) && defined(CPU_CAPABILITY_AVX2)
  __m256 held = x;
  asm("" : "+x"(held));
  x = held;
#endif
  return x;
}

// total += a b^T for a column of a and N vectors of a row of b.  What there are fewer of waits in registers for the others,
// of which each is needed once: with the sums these are all that AVX2 has.
template <int M, int N>
inline void add_outer(Vec (&total)[M][N], const float* a, int64_t am, const float* b) {
  if constexpr (M < N) {
    Vec factor[M];
    for (int m = 0; m < M; m++) factor[m] = Vec(a[m * am]);
    for (int n = 0; n < N; n++) {
      Vec of_row = read_once(Vec::loadu(b + n * LANES));
      for (int m = 0; m < M; m++) total[m][n] = at::vec::fmadd(factor[m], of_row, total[m][n]);
    }
  } else {
    Vec row[N];
    for (int n = 0; n < N; n++) row[n] = read_once(Vec::loadu(b + n * LANES));
    for (int m = 0; m < M; m++) {
      Vec factor(a[m * am]);
      for (int n = 0; n < N; n++) total[m][n] = at::vec::fmadd(factor, row[n], total[m][n]);
    }
  }
}

// M rows of c by N vectors, all of them in registers.
template <int M, int N>
inline void tile(const float* a, int64_t am, int64_t ak, const float* b, int64_t bk, float* c, int64_t cm,
                 const Depth& depth, bool add) {
  Vec total[M][N];
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) total[m][n] = add ? Vec::loadu(c + m * cm + n * LANES) : Vec(0.f);
  for (int64_t i = 0; i < depth.stretches; i++, a += depth.apart_in_a, b += depth.apart_in_b)
    for (int64_t k = 0; k < depth.length; k++) add_outer(total, a + k * ak, am, b + k * bk);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) total[m][n].store(c + m * cm + n * LANES);
}

// Does `run.operator()<M>(row)`, M being the number of rows.
template <int M, typename Run>
inline void tile_of(int64_t rows, int64_t row, const Run& run) {
  if constexpr (M > 0) {
    if (rows == M) return run.template operator()<M>(row);
    tile_of<M - 1>(rows, row, run);
  }
}

// For rows begin..end in tiles of as many as fit into the registers with so many vectors each, as even as can be: a row
// alone waits for each of its sums.  8 rows by 4 vectors made 37 GFLOP/s as 3, 3, 1 and 1, and 87 as 3, 3 and 2 (AVX2, Zen 3).
template <int vectors, typename Run>
inline void in_tiles(int64_t begin, int64_t end, const Run& run) {
  constexpr int most = std::min(SUMS / vectors, MOST_ROWS);
  int64_t rows = end - begin, tiles = (rows + most - 1) / most;
  for (int64_t n = 0; n < tiles; n++) {
    int64_t row = begin + rows * n / tiles;
    tile_of<most>(begin + rows * (n + 1) / tiles - row, row, run);
  }
}

template <int N>
inline void of_vectors(int64_t rows, const float* a, int64_t am, int64_t ak, const float* b, int64_t bk, float* c,
                       int64_t cm, const Depth& depth, bool add) {
  in_tiles<N>(0, rows, [&]<int M>(int64_t row) {
    tile<M, N>(a + row * am, am, ak, b, bk, c + row * cm, cm, depth, add);
  });
}

// For so many vectors of columns.
inline void product(int64_t rows, int64_t vectors, const float* a, int64_t am, int64_t ak, const float* b, int64_t bk,
                    float* c, int64_t cm, const Depth& depth, bool add) {
  for (; vectors >= 4; vectors -= 4, b += 4 * LANES, c += 4 * LANES)
    of_vectors<4>(rows, a, am, ak, b, bk, c, cm, depth, add);
  if (vectors == 3) of_vectors<3>(rows, a, am, ak, b, bk, c, cm, depth, add);
  if (vectors == 2) of_vectors<2>(rows, a, am, ak, b, bk, c, cm, depth, add);
  if (vectors == 1) of_vectors<1>(rows, a, am, ak, b, bk, c, cm, depth, add);
}

// x = factor * x, where it lies.
inline void scale(int64_t elements, Tensor<float> x, Tensor<const float> factor) {
  if (*factor.data == 1) return;  // the cotangent of a cost
  for (int64_t j = 0; j < elements; j++) x.data[j] *= *factor.data;
}

}  // namespace blocks
#endif
