// Attention, forward and backward, as the page scaled_dot_product_attention derives it, one head after the other in
// blocks that stay in the caches.  Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_ATTENTION
#define MANUAL_BP_ATTENTION

namespace attention {

using namespace blocks;
constexpr int64_t PANEL = 4 * LANES;         // columns of a packed matrix that lie together
constexpr int64_t ROWS = 64;                 // queries at a time: their scores of 2048 keys are half a MB
constexpr int TOGETHER = 4;                  // of their exponentials
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

// The bias of a head, which is added to q, k or v on the way, of (heads, width), or nothing.
inline const float* bias_of(const Tensor<const float>& bias, int64_t head) {
  return bias.data ? bias.data + head * bias.strides[0] : nullptr;
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

// factor * (x + bias), rows made whole vectors long with 0.
inline void pack_rows(Rows<const float> x, const float* bias, int64_t n, int64_t width, float factor, float* to) {
  for (int64_t w = 0; w < width; w += LANES) {
    int64_t here = std::min(LANES, width - w), whole = up(width, LANES);
    Vec added = bias ? Vec::loadu(bias + w, here) : Vec(0.f);
    for (int64_t i = 0; i < n; i++) ((Vec::loadu(x[i] + w, here) + added) * Vec(factor)).store(to + i * whole + w);
  }
}

// factor * x of such rows.
inline void unpack_rows(const float* x, int64_t n, int64_t width, float factor, Rows<float> to) {
  for (int64_t i = 0, whole = up(width, LANES); i < n; i++)
    for (int64_t w = 0; w < width; w += LANES)
      (Vec(factor) * Vec::loadu(x + i * whole + w)).store(to[i] + w, std::min(LANES, width - w));
}

// The transposed of such rows in panels of PANEL columns, one after the other; columns that there are not are 0.
inline void pack_panels(const float* x, int64_t n, int64_t width, float* to) {
  int64_t whole = up(width, LANES);
  for (int64_t begin = 0; begin < n; begin += PANEL, to += PANEL * width)
    for (int64_t j = 0; j < PANEL; j += LANES)
      for (int64_t w = 0; w < width; w += LANES) {
        const float* from = x + (begin + j) * whole + w;
        float* at = to + w * PANEL + j;
        if (begin + j + LANES <= n && w + LANES <= width) {
          at::vec::transpose_mxn<float, LANES, LANES>(from, whole, at, PANEL);
          continue;
        }
        for (int64_t k = 0; k < std::min(LANES, width - w); k++)
          for (int64_t i = 0; i < LANES; i++) at[k * PANEL + i] = begin + j + i < n ? from[i * whole + k] : 0.f;
      }
}

// Of the scores of a query and the keys first..last, which begin at `score`: -inf where it may not look, and 0 from
// `end` on, where whole vectors begin.  Behind `last` is room for a vector.
inline void forbid(const Sizes& s, Rows<const bool> mask, int64_t query, float* score, int64_t first, int64_t end,
                   int64_t last) {
  int64_t seen = std::min(std::max<int64_t>(s.seen(query), first), end);
  for (int64_t j = seen; j < end; j += LANES) Vec(NEVER).store(score + j - first);
  for (int64_t j = end; j < last; j += LANES) Vec(0.f).store(score + j - first);
  if (mask.data)
    for (int64_t j = first; j < seen; j++)
      if (!mask[query][j]) score[j - first] = NEVER;
}

// The scores of N queries become e^(score - m), and their m and w.  Several, for one waits for its maximum and its sum.
template <int N>
inline void exponentials(const Sizes& s, Rows<const bool> mask, int64_t query, float* score, int64_t line,
                         int64_t columns, Rows<float> m, Rows<float> w) {
  int64_t allowed = std::min(up(s.seen(query + N - 1), LANES), columns);
  float most[N];
  Vec top[N], total[N];
  for (int n = 0; n < N; n++) {
    forbid(s, mask, query + n, score + n * line, 0, allowed, columns);
    top[n] = Vec(NEVER), total[n] = Vec(0.f);
  }
  for (int64_t j = 0; j < allowed; j += LANES)
    for (int n = 0; n < N; n++) top[n] = larger(top[n], Vec::loadu(score + n * line + j));
  for (int n = 0; n < N; n++) most[n] = largest(top[n]);
  for (int n = 0; n < N; n++)
    if (most[n] == NEVER) most[n] = 0.f;  // it may look nowhere, or what it sees is NaN: then the total says so
  for (int64_t j = 0; j < allowed; j += LANES)
    for (int n = 0; n < N; n++) {
      Vec e = exponential_of_any(Vec::loadu(score + n * line + j) - Vec(most[n]));
      e.store(score + n * line + j);
      total[n] = total[n] + e;
    }
  for (int n = 0; n < N; n++) {
    float together = sum(total[n]);
    *m[n] = most[n];
    *w[n] = together == 0.f ? 0.f : 1 / together;
  }
}

// One head forward.  keys_, values: scaled and packed as panels, and packed as rows.
inline void forward_head(const Sizes& s, Rows<const bool> mask, Rows<const float> q, const float* bias,
                         const float* keys_, const float* values, Rows<float> y, Rows<float> m, Rows<float> w,
                         float* scratch) {
  int64_t width = up(s.width, LANES), value_width = up(s.value_width, LANES);
  int64_t line = up(s.keys, PANEL) + LANES;  // not a power of 2: rows share no set of the cache
  float *score = scratch, *queries = score + ROWS * line, *mean = queries + ROWS * width;
  for (int64_t start = 0; start < s.queries; start += ROWS) {
    int64_t count = std::min(ROWS, s.queries - start), seen = s.seen(start + count - 1), columns = up(seen, PANEL);
    pack_rows(q.from(start), bias, count, s.width, 1.f, queries);
    by_panels(count, 0, columns / PANEL, queries, width, keys_, s.width, score, line);
    int64_t i = 0;
    for (; i + TOGETHER <= count; i += TOGETHER)
      exponentials<TOGETHER>(s, mask, start + i, score + i * line, line, columns, m.from(start + i), w.from(start + i));
    for (; i < count; i++)
      exponentials<1>(s, mask, start + i, score + i * line, line, columns, m.from(start + i), w.from(start + i));
    product(count, value_width / LANES, score, line, 1, values, value_width, mean, value_width, seen, false);
    for (int64_t i = 0; i < count; i++)
      unpack_rows(mean + i * value_width, 1, s.value_width, *w[start + i], y.from(start + i));
  }
}

inline int64_t forward_scratch(const Sizes& s) {
  return ROWS * (up(s.keys, PANEL) + LANES + up(s.width, LANES) + up(s.value_width, LANES));
}

// One head backward.  keys_, values: scaled and packed as panels, and packed as panels; key_rows: scaled and packed as
// rows.  dk, dv: likewise, to which is added.
inline void backward_head(const Sizes& s, Rows<const bool> mask, Rows<const float> q, const float* bias,
                          Rows<const float> y, Rows<const float> m, Rows<const float> w, Rows<const float> dy,
                          const float* keys_, const float* values, const float* key_rows, Rows<float> dq, float* dk,
                          float* dv, float* scratch) {
  int64_t width = up(s.width, LANES), value_width = up(s.value_width, LANES), line = KEYS + LANES;
  float *p = scratch, *ds = p + ROWS * line, *queries = ds + ROWS * line, *dq_rows = queries + ROWS * width;
  float* dy_rows = dq_rows + ROWS * width;
  float along[ROWS];
  for (int64_t start = 0; start < s.queries; start += ROWS) {
    int64_t count = std::min(ROWS, s.queries - start), seen = s.seen(start + count - 1);
    pack_rows(q.from(start), bias, count, s.width, 1.f, queries);
    pack_rows(dy.from(start), nullptr, count, s.value_width, 1.f, dy_rows);
    std::fill_n(dq_rows, ROWS * width, 0.f);
    for (int64_t i = 0; i < count; i++) {
      Vec total(0.f);
      for (int64_t d = 0; d < s.value_width; d += LANES) {
        int64_t here = std::min(LANES, s.value_width - d);
        total = total + Vec::loadu(dy_rows + i * value_width + d) * Vec::loadu(y[start + i] + d, here);
      }
      along[i] = sum(total);
    }
    for (int64_t from = 0; from < seen; from += KEYS) {
      int64_t here = std::min(KEYS, seen - from), columns = up(here, PANEL);
      int64_t first = from / PANEL, last = first + columns / PANEL;
      int64_t top = 0;  // rows before it see none of these keys
      while (top < count && s.seen(start + top) <= from) top++;
      int64_t rest = count - top;
      float *p_ = p + top * line, *ds_ = ds + top * line, *q_ = queries + top * width, *dy_ = dy_rows + top * value_width;
      by_panels(rest, first, last, q_, width, keys_, s.width, p_, line);
      by_panels(rest, first, last, dy_, value_width, values, s.value_width, ds_, line);
      for (int64_t i = top; i < count; i++) {
        float *p_row = p + i * line, *ds_row = ds + i * line;
        int64_t allowed = std::min(up(s.seen(start + i) - from, LANES), columns);
        forbid(s, mask, start + i, p_row, from, from + allowed, from + columns);
        Vec most(*m[start + i]), weight(*w[start + i]), projection(along[i]);
        for (int64_t j = 0; j < allowed; j += LANES) {
          Vec share = weight * exponential_of_any(Vec::loadu(p_row + j) - most);
          share.store(p_row + j);
          (share * (Vec::loadu(ds_row + j) - projection)).store(ds_row + j);
        }
        for (int64_t j = allowed; j < columns; j += LANES) Vec(0.f).store(ds_row + j);
      }
      product(rest, width / LANES, ds_, line, 1, key_rows + from * width, width, dq_rows + top * width, width, here, true);
      product(here, width / LANES, ds_, 1, line, q_, width, dk + from * width, width, rest, true);
      product(here, value_width / LANES, p_, 1, line, dy_, value_width, dv + from * value_width, value_width, rest, true);
    }
    unpack_rows(dq_rows, count, s.width, 1.f, dq.from(start));
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
                    Tensor<const float> k, Tensor<const float> v, Tensor<const float> q_bias,
                    Tensor<const float> k_bias, Tensor<const float> v_bias, Tensor<const bool> mask) {
  int64_t panels = up(s.keys, PANEL) * s.width, rows = s.keys * up(s.value_width, LANES);
  int64_t key_rows = s.keys * up(s.width, LANES), scratch = std::max(key_rows, forward_scratch(s));
  for_heads<threads>(s, panels + rows + scratch, [&](int64_t batch, int64_t kv, float* keys_) {
    float *values = keys_ + panels, *scratch = values + rows;
    pack_rows(head_of(k, batch, kv), bias_of(k_bias, kv), s.keys, s.width, s.scale, scratch);
    pack_panels(scratch, s.keys, s.width, keys_);
    pack_rows(head_of(v, batch, kv), bias_of(v_bias, kv), s.keys, s.value_width, 1.f, values);
    for (int64_t h = kv * s.group; h < (kv + 1) * s.group; h++)
      forward_head(s, {mask.data, mask.strides[0]}, head_of(q, batch, h), bias_of(q_bias, h), keys_, values,
                   head_of(y, batch, h), head_of(m, batch, h), head_of(w, batch, h), scratch);
  });
}

template <int threads>
inline void backward(const Sizes& s, Tensor<float> dq, Tensor<float> dk, Tensor<float> dv, Tensor<const float> q,
                     Tensor<const float> k, Tensor<const float> v, Tensor<const float> y, Tensor<const float> m,
                     Tensor<const float> w, Tensor<const float> dy, Tensor<const float> q_bias,
                     Tensor<const float> k_bias, Tensor<const float> v_bias, Tensor<const bool> mask) {
  int64_t width = s.keys * up(s.width, LANES), value_width = s.keys * up(s.value_width, LANES);
  int64_t most = up(s.keys, PANEL), floats = most * (s.width + s.value_width) + 2 * width + value_width;
  for_heads<threads>(s, floats + backward_scratch(s), [&](int64_t batch, int64_t kv, float* keys_) {
    float *values = keys_ + most * s.width, *key_rows = values + most * s.value_width;
    float *dk_rows = key_rows + width, *dv_rows = dk_rows + width, *scratch = dv_rows + value_width;
    pack_rows(head_of(v, batch, kv), bias_of(v_bias, kv), s.keys, s.value_width, 1.f, dv_rows);
    pack_panels(dv_rows, s.keys, s.value_width, values);
    pack_rows(head_of(k, batch, kv), bias_of(k_bias, kv), s.keys, s.width, s.scale, key_rows);
    pack_panels(key_rows, s.keys, s.width, keys_);
    std::fill(dk_rows, scratch, 0.f);
    for (int64_t h = kv * s.group; h < (kv + 1) * s.group; h++)
      backward_head(s, {mask.data, mask.strides[0]}, head_of(q, batch, h), bias_of(q_bias, h),
                    head_of(y, batch, h), head_of(m, batch, h), head_of(w, batch, h), head_of(dy, batch, h), keys_,
                    values, key_rows, head_of(dq, batch, h), dk_rows, dv_rows, scratch);
    unpack_rows(dk_rows, s.keys, s.width, s.scale, head_of(dk, batch, kv));
    unpack_rows(dv_rows, s.keys, s.value_width, 1.f, head_of(dv, batch, kv));
  });
}

}  // namespace attention
#endif
