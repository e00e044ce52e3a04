// Attention, forward and backward, as the page scaled_dot_product_attention derives it, one head after the other in
// blocks that stay in the caches.  Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_ATTENTION
#define MANUAL_BP_ATTENTION

namespace attention {

using namespace blocks;
constexpr int64_t PANEL = 4 * LANES;         // columns of a packed matrix that lie together
constexpr int64_t ROWS = 64;                 // queries at a time: their scores of 2048 keys are half a MB
constexpr int64_t KEYS = 2 * PANEL;          // keys at a time in backward, whose scores are 32 KB

// Rows of one head.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t i) const { return data + i * stride; }
  Rows from(int64_t i) const { return {data + i * stride, stride}; }
};

template <typename T>
inline Rows<T> head_of(const Tensor<T>& x, int64_t batch, int64_t head) {
  return {x.data + batch * x.strides[0] + head * x.strides[1], x.strides[2]};
}

struct Sizes {
  int64_t batch, kv_heads, group, queries, keys, width, value_width;
  bool causal;
  int64_t ahead;  // how many more keys than its own number the first query may see
  float scale;
  // How many of the first keys a query may see.
  int64_t seen(int64_t query) const {
    return causal ? std::min(std::max<int64_t>(query + 1 + ahead, 0), keys) : keys;
  }
};

// c = a b^T for the panels first..last of b.
inline void by_panels(int64_t rows, int64_t first, int64_t last, const float* a, int64_t am, const float* b,
                      int64_t width, float* c, int64_t cm) {
  for (int64_t n = first; n < last; n++)
    of_vectors<4>(rows, a, am, 1, b + n * PANEL * width, PANEL, c + (n - first) * PANEL, cm, width, false);
}

// x^T in panels of PANEL columns, one after the other; columns that there are not are 0.
inline void pack_panels(Rows<const float> x, int64_t n, int64_t width, float* to) {
  for (int64_t begin = 0; begin < n; begin += PANEL, to += PANEL * width) {
    int64_t here = std::min(PANEL, n - begin);
    for (int64_t j = 0; j < PANEL; j++)
      for (int64_t w = 0; w < width; w++) to[w * PANEL + j] = j < here ? x[begin + j][w] : 0.f;
  }
}

// factor * x, rows made `whole` long with 0.
inline void pack_rows(Rows<const float> x, int64_t n, int64_t width, float factor, float* to, int64_t whole) {
  for (int64_t i = 0; i < n; i++, to += whole) {
    for (int64_t w = 0; w < width; w++) to[w] = factor * x[i][w];
    std::fill(to + width, to + whole, 0.f);
  }
}

// The scores of a query and the keys first..last, which begin at `score`: -inf where it may not look.
inline void forbid(const Sizes& s, Rows<const bool> mask, int64_t query, float* score, int64_t first, int64_t last) {
  int64_t seen = s.seen(query);
  if (seen < last) std::fill(score + std::max<int64_t>(seen - first, 0), score + (last - first), NEVER);
  if (mask.data)
    for (int64_t j = first; j < std::min(last, seen); j++)
      if (!mask[query][j]) score[j - first] = NEVER;
}

// One head forward.  keys_, values: packed as panels and as rows.
inline void forward_head(const Sizes& s, Rows<const bool> mask, Rows<const float> q, const float* keys_,
                         const float* values, Rows<float> y, Rows<float> m, Rows<float> w, float* scratch) {
  int64_t whole = up(s.value_width, LANES), line = up(s.keys, PANEL) + LANES;  // not a power of 2: rows share no set
  float *score = scratch, *scaled = score + ROWS * line, *mean = scaled + ROWS * s.width;
  for (int64_t start = 0; start < s.queries; start += ROWS) {
    int64_t count = std::min(ROWS, s.queries - start), seen = s.seen(start + count - 1), columns = up(seen, PANEL);
    pack_rows(q.from(start), count, s.width, s.scale, scaled, s.width);
    by_panels(count, 0, columns / PANEL, scaled, s.width, keys_, s.width, score, line);
    for (int64_t i = 0; i < count; i++) {
      float* row = score + i * line;
      forbid(s, mask, start + i, row, 0, columns);
      Vec top(NEVER), total(0.f);
      for (int64_t j = 0; j < columns; j += LANES) top = larger(top, Vec::loadu(row + j));
      float most = largest(top);
      if (most == NEVER) most = 0.f;  // it may look nowhere, or what it sees is NaN: then the total says so
      for (int64_t j = 0; j < columns; j += LANES) {
        Vec e = exponential_of_any(Vec::loadu(row + j) - Vec(most));
        e.store(row + j);
        total = total + e;
      }
      float together = sum(total);
      *m[start + i] = most;
      *w[start + i] = together == 0.f ? 0.f : 1 / together;
    }
    product(count, whole / LANES, score, line, 1, values, whole, mean, whole, seen, false);
    for (int64_t i = 0; i < count; i++)
      for (int64_t d = 0; d < s.value_width; d++) y[start + i][d] = *w[start + i] * mean[i * whole + d];
  }
}

inline int64_t forward_scratch(const Sizes& s) {
  return ROWS * (up(s.keys, PANEL) + LANES + s.width + up(s.value_width, LANES));
}

// One head backward.  keys_, values, key_rows: packed as panels, panels and rows.  dk, dv: rows of whole vectors, to
// which is added.
inline void backward_head(const Sizes& s, Rows<const bool> mask, Rows<const float> q, Rows<const float> y,
                          Rows<const float> m, Rows<const float> w, Rows<const float> dy, const float* keys_,
                          const float* values, const float* key_rows, Rows<float> dq, float* dk, float* dv,
                          float* scratch) {
  int64_t whole = up(s.width, LANES), value_whole = up(s.value_width, LANES), line = KEYS + LANES;
  float *p = scratch, *ds = p + ROWS * line, *scaled = ds + ROWS * line, *dq_rows = scaled + ROWS * whole;
  float* dy_rows = dq_rows + ROWS * whole;
  float along[ROWS];
  for (int64_t start = 0; start < s.queries; start += ROWS) {
    int64_t count = std::min(ROWS, s.queries - start), seen = s.seen(start + count - 1);
    pack_rows(q.from(start), count, s.width, s.scale, scaled, whole);
    pack_rows(dy.from(start), count, s.value_width, 1.f, dy_rows, value_whole);
    std::fill_n(dq_rows, ROWS * whole, 0.f);
    for (int64_t i = 0; i < count; i++) {
      Vec total(0.f);
      for (int64_t d = 0; d < s.value_width; d += LANES) {
        int64_t here = std::min(LANES, s.value_width - d);
        total = total + Vec::loadu(dy_rows + i * value_whole + d) * Vec::loadu(y[start + i] + d, here);
      }
      along[i] = sum(total);
    }
    for (int64_t from = 0; from < seen; from += KEYS) {
      int64_t here = std::min(KEYS, seen - from), columns = up(here, PANEL);
      int64_t first = from / PANEL, last = first + columns / PANEL;
      int64_t top = 0;  // rows before it see none of these keys
      while (top < count && s.seen(start + top) <= from) top++;
      int64_t rest = count - top;
      float *p_ = p + top * line, *ds_ = ds + top * line, *q_ = scaled + top * whole, *dy_ = dy_rows + top * value_whole;
      by_panels(rest, first, last, q_, whole, keys_, s.width, p_, line);
      by_panels(rest, first, last, dy_, value_whole, values, s.value_width, ds_, line);
      for (int64_t i = top; i < count; i++) {
        float *p_row = p + i * line, *ds_row = ds + i * line;
        forbid(s, mask, start + i, p_row, from, from + columns);
        Vec most(*m[start + i]), weight(*w[start + i]), projection(along[i]);
        for (int64_t j = 0; j < columns; j += LANES) {
          Vec share = weight * exponential_of_any(Vec::loadu(p_row + j) - most);
          share.store(p_row + j);
          (share * (Vec::loadu(ds_row + j) - projection)).store(ds_row + j);
        }
      }
      product(rest, whole / LANES, ds_, line, 1, key_rows + from * whole, whole, dq_rows + top * whole, whole, here, true);
      product(here, whole / LANES, ds_, 1, line, q_, whole, dk + from * whole, whole, rest, true);
      product(here, value_whole / LANES, p_, 1, line, dy_, value_whole, dv + from * value_whole, value_whole, rest, true);
    }
    for (int64_t i = 0; i < count; i++)
      for (int64_t d = 0; d < s.width; d++) dq[start + i][d] = s.scale * dq_rows[i * whole + d];
  }
}

inline int64_t backward_scratch(const Sizes& s) {
  return ROWS * (2 * (KEYS + LANES) + 2 * up(s.width, LANES) + up(s.value_width, LANES));
}

// Does `run(batch, head of k and v, memory)` for all of them, each thread with so many floats of its own.
template <int threads, typename Run>
inline void for_heads(const Sizes& s, int64_t floats, const Run& run) {
  int64_t heads = s.batch * s.kv_heads;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::unique_ptr<float[]> memory(new float[floats]);
#pragma omp for
    for (int64_t i = 0; i < heads; i++) run(i / s.kv_heads, i % s.kv_heads, memory.get());
  }
}

template <int threads>
inline void forward(const Sizes& s, Tensor<float> y, Tensor<float> m, Tensor<float> w, Tensor<const float> q,
                    Tensor<const float> k, Tensor<const float> v, Tensor<const bool> mask = {}) {
  int64_t whole = up(s.value_width, LANES), panels = up(s.keys, PANEL) * s.width, rows = s.keys * whole;
  for_heads<threads>(s, panels + rows + forward_scratch(s), [&](int64_t batch, int64_t kv, float* keys_) {
    float *values = keys_ + panels, *scratch = values + rows;
    pack_panels(head_of(k, batch, kv), s.keys, s.width, keys_);
    pack_rows(head_of(v, batch, kv), s.keys, s.value_width, 1.f, values, whole);
    for (int64_t h = kv * s.group; h < (kv + 1) * s.group; h++)
      forward_head(s, {mask.data, mask.strides[0]}, head_of(q, batch, h), keys_, values, head_of(y, batch, h),
                   head_of(m, batch, h), head_of(w, batch, h), scratch);
  });
}

template <int threads>
inline void backward(const Sizes& s, Tensor<float> dq, Tensor<float> dk, Tensor<float> dv, Tensor<const float> q,
                     Tensor<const float> k, Tensor<const float> v, Tensor<const float> y, Tensor<const float> m,
                     Tensor<const float> w, Tensor<const float> dy, Tensor<const bool> mask = {}) {
  int64_t whole = up(s.width, LANES), value_whole = up(s.value_width, LANES), most = up(s.keys, PANEL);
  int64_t floats = most * (s.width + s.value_width) + s.keys * (2 * whole + value_whole) + backward_scratch(s);
  for_heads<threads>(s, floats, [&](int64_t batch, int64_t kv, float* keys_) {
    float *values = keys_ + most * s.width, *key_rows = values + most * s.value_width;
    float *dk_rows = key_rows + s.keys * whole, *dv_rows = dk_rows + s.keys * whole;
    float* scratch = dv_rows + s.keys * value_whole;
    pack_panels(head_of(k, batch, kv), s.keys, s.width, keys_);
    pack_panels(head_of(v, batch, kv), s.keys, s.value_width, values);
    pack_rows(head_of(k, batch, kv), s.keys, s.width, 1.f, key_rows, whole);
    std::fill(dk_rows, scratch, 0.f);
    for (int64_t h = kv * s.group; h < (kv + 1) * s.group; h++)
      backward_head(s, {mask.data, mask.strides[0]}, head_of(q, batch, h), head_of(y, batch, h), head_of(m, batch, h),
                    head_of(w, batch, h), head_of(dy, batch, h), keys_, values, key_rows, head_of(dq, batch, h),
                    dk_rows, dv_rows, scratch);
    for (int64_t j = 0; j < s.keys; j++) {
      std::copy_n(dk_rows + j * whole, s.width, head_of(dk, batch, kv)[j]);
      std::copy_n(dv_rows + j * value_whole, s.value_width, head_of(dv, batch, kv)[j]);
    }
  });
}

}  // namespace attention
#endif
