// Memory that a program keeps from one run to the next.  Included by the code that calls the kernels (kept.py).
//
// By itself it asks the system for every large tensor and gives it back, and the system clears each page anew.  Here a
// tensor is a piece of a chunk that stays.  The pieces of a chunk, in use or free, follow each other without a gap.
#include <map>
#include <mutex>
#include <torch/csrc/stable/c/shim.h>

namespace kept {

using torch::aot_inductor::RAIIAtenTensorHandle;

constexpr int64_t ALIGNED = 64;  // a line of the cache, as torch's own tensors

struct Piece {
  int64_t bytes;
  bool is_free, is_last;  // of its chunk
};

struct Memory {
  std::mutex lock;
  std::map<char*, Piece> pieces;
  std::vector<RAIIAtenTensorHandle> chunks;

  // The smallest free piece that is large enough, cut to size; if there is none, a new chunk.
  char* take(int64_t bytes) {
    std::lock_guard<std::mutex> alone(lock);
    auto found = pieces.end();
    for (auto at = pieces.begin(); at != pieces.end(); at++)
      if (at->second.is_free && at->second.bytes >= bytes &&
          (found == pieces.end() || at->second.bytes < found->second.bytes))
        found = at;
    if (found == pieces.end()) found = pieces.insert({chunk(bytes), {bytes, true, true}}).first;
    Piece& piece = found->second;
    if (piece.bytes > bytes) {
      pieces.insert({found->first + bytes, {piece.bytes - bytes, true, piece.is_last}});
      piece = {bytes, true, false};
    }
    piece.is_free = false;
    return found->first;
  }

  // Free neighbours become one piece.
  void give_back(char* address) {
    std::lock_guard<std::mutex> alone(lock);
    auto at = pieces.find(address);
    at->second.is_free = true;
    if (auto next = std::next(at); !at->second.is_last && next->second.is_free) join(at, next);
    if (at == pieces.begin()) return;
    if (auto before = std::prev(at); !before->second.is_last && before->second.is_free) join(before, at);
  }

  void join(std::map<char*, Piece>::iterator first, std::map<char*, Piece>::iterator second) {
    first->second.bytes += second->second.bytes;
    first->second.is_last = second->second.is_last;
    pieces.erase(second);
  }

  char* chunk(int64_t bytes) {
    AtenTensorHandle made;
    int64_t one = 1;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &bytes, &one, aoti_torch_dtype_uint8(),
                                                         aoti_torch_device_type_cpu(), 0, &made));
    chunks.emplace_back(made);
    return static_cast<char*>(chunks.back().data_ptr());
  }
};

static Memory memory;

// As aoti_torch_empty_strided; the last element is where the strides are largest.
inline AOTITorchError empty_strided(int64_t axes, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                    int32_t device, int32_t index, AtenTensorHandle* made) {
  int64_t bytes = aoti_torch_dtype_element_size(dtype), elements = 1;
  for (int64_t i = 0; i < axes; i++) elements = sizes[i] ? elements + (sizes[i] - 1) * strides[i] : 0;
  bytes *= elements;
  if (bytes < MANUAL_BP_LARGE || device != aoti_torch_device_type_cpu())
    return aoti_torch_empty_strided(axes, sizes, strides, dtype, device, index, made);
  char* address = memory.take((bytes + ALIGNED - 1) / ALIGNED * ALIGNED);
  auto give_back = [](void* data, void*) { memory.give_back(static_cast<char*>(data)); };
  return torch_from_blob(address, axes, sizes, strides, 0, dtype, device, index, made, aoti_torch_layout_strided(),
                         nullptr, 0, give_back, nullptr);
}

}  // namespace kept
#define aoti_torch_empty_strided kept::empty_strided
