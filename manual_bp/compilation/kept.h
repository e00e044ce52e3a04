// Memory that a program keeps from one run to the next.  Included by the code that calls the kernels (kept.py).
//
// By itself it asks the system for every large tensor and gives it back, and the system clears each page anew.  Here a
// tensor is a piece of a chunk that stays.  The pieces of a chunk, in use or free, follow each other without a gap.
//
// Every run asks for the same tensors in the same order.  The first one shows when each is in use, and from then on all
// lie in one chunk, each where nothing else is at that time: pieces that were cut as they came took 3.75 MiB for a small
// network of images, and 2.3 in places that are planned, which is what is in use at once.
#include <algorithm>
#include <map>
#include <mutex>
#include <vector>
#include <torch/csrc/stable/c/shim.h>

namespace kept {

using torch::aot_inductor::RAIIAtenTensorHandle;

constexpr int64_t ALIGNED = 64;  // a line of the cache, as torch's own tensors
constexpr int PLANS = 3;         // at most: where runs are not alike, pieces are cut as they come

struct Piece {
  int64_t bytes;
  bool is_free, is_last;  // of its chunk
};

// A tensor of a run: when it was asked for and given back, in events of the run, and where it is planned to lie.
struct Asked {
  int64_t bytes, begin, end, offset;
  bool meets(const Asked& other) const { return begin < other.end && other.begin < end; }
};

struct Memory {
  std::mutex lock;
  std::map<char*, Piece> pieces;
  std::vector<RAIIAtenTensorHandle> chunks;
  std::vector<Asked> run, planned;  // of this run so far; of the one that was planned for
  std::map<char*, size_t> of_run;   // where its tensors lie
  bool is_alone = false;            // and no other runs at the same time
  int64_t in_use = 0, events = 0, held = 0;
  int plans = 0;

  // At the beginning of each run.
  void begin() {
    std::lock_guard<std::mutex> alone(lock);
    if (is_alone && in_use == 0 && chunks.size() > 1 && plans < PLANS) plan();
    is_alone = in_use == 0;
    events = 0;
    run.clear();
    of_run.clear();
  }

  char* take(int64_t bytes) {
    std::lock_guard<std::mutex> alone(lock);
    char* address = place(bytes);
    in_use++;
    if (is_alone) {
      of_run[address] = run.size();
      run.push_back({bytes, events++, 0, 0});
    }
    return address;
  }

  // Where it is planned, if that is free: of runs in another order it may not be.  Else the smallest free piece that is
  // large enough; if there is none, a new chunk.
  char* place(int64_t bytes) {
    if (is_alone && run.size() < planned.size() && planned[run.size()].bytes == bytes) {
      char* address = static_cast<char*>(chunks.front().data_ptr()) + planned[run.size()].offset;
      auto at = std::prev(pieces.upper_bound(address));
      if (at->second.is_free && at->first + at->second.bytes >= address + bytes) {
        if (at->first < address) at = cut(at, address - at->first);
        return reserved(at, bytes);
      }
    }
    auto found = pieces.end();
    for (auto at = pieces.begin(); at != pieces.end(); at++)
      if (at->second.is_free && at->second.bytes >= bytes &&
          (found == pieces.end() || at->second.bytes < found->second.bytes))
        found = at;
    if (found == pieces.end()) found = pieces.insert({chunk(bytes), {bytes, true, true}}).first;
    return reserved(found, bytes);
  }

  // A free piece becomes two, of which this is the second.
  std::map<char*, Piece>::iterator cut(std::map<char*, Piece>::iterator at, int64_t bytes) {
    Piece whole = at->second;
    at->second = {bytes, true, false};
    return pieces.insert({at->first + bytes, {whole.bytes - bytes, true, whole.is_last}}).first;
  }

  char* reserved(std::map<char*, Piece>::iterator at, int64_t bytes) {
    if (at->second.bytes > bytes) cut(at, bytes);
    at->second.is_free = false;
    return at->first;
  }

  // The largest first, each as low as it can be beside those that are in use at the same time.
  void plan() {
    std::vector<size_t> by_size(run.size());
    for (size_t i = 0; i < run.size(); i++) by_size[i] = i;
    std::stable_sort(by_size.begin(), by_size.end(), [&](size_t i, size_t j) { return run[i].bytes > run[j].bytes; });
    int64_t bytes = 0;
    std::vector<size_t> by_offset;  // of those that have a place
    for (size_t i : by_size) {
      Asked& asked = run[i];
      asked.offset = 0;
      for (size_t j : by_offset) {
        if (!run[j].meets(asked)) continue;
        if (run[j].offset >= asked.offset + asked.bytes) break;
        asked.offset = std::max(asked.offset, run[j].offset + run[j].bytes);
      }
      auto behind = std::upper_bound(by_offset.begin(), by_offset.end(), asked.offset,
                                     [&](int64_t offset, size_t j) { return offset < run[j].offset; });
      by_offset.insert(behind, i);
      bytes = std::max(bytes, asked.offset + asked.bytes);
    }
    plans++;
    if (bytes >= held) return;
    planned = run;
    pieces.clear();
    chunks.clear();
    held = 0;
    pieces.insert({chunk(bytes), {bytes, true, true}});
  }

  // Free neighbours become one piece.
  void give_back(char* address) {
    std::lock_guard<std::mutex> alone(lock);
    in_use--;
    if (auto asked = of_run.find(address); asked != of_run.end()) {
      run[asked->second].end = events++;
      of_run.erase(asked);
    }
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
    held += bytes;
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
