// A torch.distributed backend for ranks of one host: collectives through memory that the ranks share.
//
// The memory holds, for every rank, a control block and two slots. A collective is a few *phases*, numbered alike on
// all ranks. In phase p a rank writes into its slot p % 2, publishes p, waits until every rank has published p, and
// reads the others' slots. A rank that has published p has read what it needed of phase p - 1, so the slot of phase
// p - 1 is free for phase p + 1: two slots suffice, and a small collective costs one round.
//
// What is reduced is reduced in rank order, each element by one rank or by all in the same way, so that the bits are
// the same on all ranks and in all runs; 16-bit numbers are summed in 32 bits and rounded once.
//
// A waiting rank spins for a moment and then sleeps on a futex; while it sleeps it looks whether its peers live. Once
// a collective has failed, every later one of the group fails with the same words.

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/futex.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kLine = 128;  // bytes that two ranks never both write
constexpr size_t kSmall = 32 << 10;  // all-reduces up to this many bytes take one round
constexpr auto kSpin = std::chrono::microseconds(50);  // about what falling asleep and waking takes
constexpr int kSleepMs = 20;
constexpr size_t kWords = 256;

enum class Kind : uint32_t { none, all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, barrier };

const char* name_of(Kind kind) {
  static const char* names[] = {"nothing", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier"};
  return names[static_cast<uint32_t>(kind)];
}

// What a rank says of its call; the ranks of a group must agree. `bytes`: of one rank's part, 0 where parts differ.
struct Call {
  Kind kind = Kind::none;
  int32_t dtype = -1;
  int32_t op = -1;
  int32_t root = -1;
  uint64_t bytes = 0;

  bool operator==(const Call& other) const {
    return kind == other.kind && dtype == other.dtype && op == other.op && root == other.root && bytes == other.bytes;
  }

  std::string text() const {
    std::ostringstream out;
    out << name_of(kind);
    if (dtype >= 0) out << " of " << c10::toString(static_cast<c10::ScalarType>(dtype));
    if (kind != Kind::barrier && kind != Kind::all_to_all) out << ", " << bytes << " bytes";
    if (op >= 0) out << ", reduction " << op;
    if (root >= 0) out << ", from rank " << root;
    return out.str();
  }
};

struct alignas(kLine) Control {
  alignas(kLine) std::atomic<uint32_t> published{0};
  std::atomic<uint32_t> sleepers{0};
  alignas(kLine) std::atomic<int32_t> process{0};
  std::atomic<uint32_t> failed{0};
  char words[kWords] = {};
  alignas(kLine) Call call[2];
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "ranks share these words");

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

long futex(std::atomic<uint32_t>* word, int what, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), what, value, timeout, nullptr, 0);
}

int processors() {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  return sched_getaffinity(0, sizeof(mine), &mine) == 0 ? CPU_COUNT(&mine) : 1;
}

// --- reductions: out[i] = in[0][i] ∘ in[1][i] ∘ … in rank order -------------------------------------------------

template <typename T>
struct Wide {
  using type = T;
};
template <>
struct Wide<c10::Half> {
  using type = float;
};
template <>
struct Wide<c10::BFloat16> {
  using type = float;
};

struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Product {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a * b);
  }
};
// A NaN on any rank is the result, as torch's own maximum and minimum have it.
struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return (a > b || a != a) ? a : b;
  }
};
struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return (a < b || a != a) ? a : b;
  }
};
struct Or {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a | b);
  }
};
struct And {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a & b);
  }
};

template <typename T, typename Op>
void reduce_as(const std::vector<const char*>& from, char* to, size_t bytes, double divisor) {
  using W = typename Wide<T>::type;
  constexpr size_t block = 2048;
  W held[block];
  T* out = reinterpret_cast<T*>(to);
  const size_t count = bytes / sizeof(T);
  for (size_t start = 0; start < count; start += block) {
    const size_t n = std::min(block, count - start);
    const T* first = reinterpret_cast<const T*>(from[0]) + start;
    for (size_t i = 0; i < n; ++i) held[i] = static_cast<W>(first[i]);
    for (size_t r = 1; r < from.size(); ++r) {
      const T* next = reinterpret_cast<const T*>(from[r]) + start;
      for (size_t i = 0; i < n; ++i) held[i] = Op::template apply<W>(held[i], static_cast<W>(next[i]));
    }
    if constexpr (!std::is_integral_v<W>) {
      if (divisor != 1.0) {
        for (size_t i = 0; i < n; ++i) held[i] = static_cast<W>(held[i] / static_cast<W>(divisor));
      }
    }
    for (size_t i = 0; i < n; ++i) out[start + i] = static_cast<T>(held[i]);
  }
}

using Reduce = void (*)(const std::vector<const char*>&, char*, size_t, double);

template <typename T>
Reduce ordered(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::AVG:
      return reduce_as<T, Sum>;
    case c10d::ReduceOp::PRODUCT:
      return reduce_as<T, Product>;
    case c10d::ReduceOp::MAX:
      return reduce_as<T, Max>;
    case c10d::ReduceOp::MIN:
      return reduce_as<T, Min>;
    default:
      return nullptr;
  }
}

template <typename T>
Reduce integral(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::AVG:
      return nullptr;
    case c10d::ReduceOp::BOR:
      return reduce_as<T, Or>;
    case c10d::ReduceOp::BAND:
      return reduce_as<T, And>;
    default:
      return ordered<T>(op);
  }
}

template <typename T>
Reduce unordered(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::AVG:
      return reduce_as<T, Sum>;
    case c10d::ReduceOp::PRODUCT:
      return reduce_as<T, Product>;
    default:
      return nullptr;
  }
}

// The sum of truth values is whether any is true.
Reduce of_truth(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::MAX:
    case c10d::ReduceOp::BOR:
      return reduce_as<uint8_t, Or>;
    case c10d::ReduceOp::PRODUCT:
    case c10d::ReduceOp::MIN:
    case c10d::ReduceOp::BAND:
      return reduce_as<uint8_t, And>;
    default:
      return nullptr;
  }
}

Reduce reduction(c10::ScalarType dtype, c10d::ReduceOp::RedOpType op) {
  Reduce found = nullptr;
  switch (dtype) {
    case at::kFloat:
      found = ordered<float>(op);
      break;
    case at::kDouble:
      found = ordered<double>(op);
      break;
    case at::kHalf:
      found = ordered<c10::Half>(op);
      break;
    case at::kBFloat16:
      found = ordered<c10::BFloat16>(op);
      break;
    case at::kChar:
      found = integral<int8_t>(op);
      break;
    case at::kByte:
      found = integral<uint8_t>(op);
      break;
    case at::kShort:
      found = integral<int16_t>(op);
      break;
    case at::kUInt16:
      found = integral<uint16_t>(op);
      break;
    case at::kInt:
      found = integral<int32_t>(op);
      break;
    case at::kUInt32:
      found = integral<uint32_t>(op);
      break;
    case at::kLong:
      found = integral<int64_t>(op);
      break;
    case at::kUInt64:
      found = integral<uint64_t>(op);
      break;
    case at::kBool:
      found = of_truth(op);
      break;
    case at::kComplexFloat:
      found = unordered<c10::complex<float>>(op);
      break;
    case at::kComplexDouble:
      found = unordered<c10::complex<double>>(op);
      break;
    default:
      break;
  }
  TORCH_CHECK(
      found != nullptr,
      "the shared-memory backend has no reduction ",
      static_cast<int>(op),
      " (torch.distributed.ReduceOp) of ",
      c10::toString(dtype));
  return found;
}

// --- the group --------------------------------------------------------------------------------------------------

class Done : public c10d::Work {
 public:
  Done(int rank, c10d::OpType type, std::vector<at::Tensor> results)
      : Work(rank, type), results_(std::move(results)) {
    finish();
  }

  bool wait(std::chrono::milliseconds) override {
    return true;
  }

  std::vector<at::Tensor> result() override {
    return results_;
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    future->markCompleted(c10::IValue(results_));
    return future;
  }

 private:
  std::vector<at::Tensor> results_;
};

class SharedMemory : public c10d::Backend {
 public:
  // `file`: of the shared memory, which is `bytes(size, slot)` long and zero when the first rank maps it. `names`: what
  // messages call the ranks of the group.
  SharedMemory(
      int rank, int size, int file, size_t slot, std::chrono::milliseconds timeout, std::vector<int64_t> names)
      : Backend(rank, size), slot_(slot), timeout_(timeout), length_(bytes(size, slot)), names_(std::move(names)) {
    TORCH_CHECK(static_cast<int>(names_.size()) == size, "a name a rank is needed");
    TORCH_CHECK(slot % kLine == 0 && slot >= kSmall && slot / kLine >= static_cast<size_t>(size), "odd slot size ", slot);
    void* place = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    TORCH_CHECK(place != MAP_FAILED, "cannot map the shared memory: ", std::strerror(errno));
    base_ = static_cast<char*>(place);
    // With more ranks than processors, the one that is waited for needs the processor.
    spins_ = processors() >= size;
    peers_.assign(size, -1);
    control(rank).process.store(static_cast<int32_t>(getpid()));
  }

  ~SharedMemory() override {
    for (int peer : peers_) {
      if (peer >= 0) close(peer);
    }
    munmap(base_, length_);
  }

  static size_t bytes(int size, size_t slot) {
    return size * (sizeof(Control) + 2 * slot);
  }

  const std::string getBackendName() const override {
    return "shardwright";
  }

  void setTimeout(std::chrono::milliseconds timeout) override {
    timeout_ = timeout;
  }

  void setSequenceNumberForGroup() override {}

  uint64_t getSequenceNumberForGroup() override {
    return phase_;
  }

  c10::intrusive_ptr<c10d::Work> allreduce(
      std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& tensor : tensors) all_reduce(tensor, options.reduceOp);
    return done(c10d::OpType::ALLREDUCE, tensors);
  }

  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(
      std::vector<at::Tensor>& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& tensor : tensors) all_reduce(tensor, options.reduceOp);
    return done(c10d::OpType::ALLREDUCE_COALESCED, tensors);
  }

  c10::intrusive_ptr<c10d::Work> _allgather_base(
      at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    all_gather_into(output, input);
    return done(c10d::OpType::_ALLGATHER_BASE, {output});
  }

  c10::intrusive_ptr<c10d::Work> allgather_into_tensor_coalesced(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs, const c10d::AllgatherOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < inputs.size(); ++i) all_gather_into(outputs[i], inputs[i]);
    return done(c10d::OpType::ALLGATHER_COALESCED, outputs);
  }

  c10::intrusive_ptr<c10d::Work> allgather(
      std::vector<std::vector<at::Tensor>>& outputs,
      std::vector<at::Tensor>& inputs,
      const c10d::AllgatherOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < inputs.size(); ++i) {
      auto input = dense(inputs[i]);
      std::vector<char*> to;
      std::vector<at::Tensor> drafts;
      for (auto& output : outputs[i]) {
        TORCH_CHECK(output.nbytes() == input.nbytes(), "all_gather: an output has another size than the input");
        drafts.push_back(output.is_contiguous() ? output : at::empty_like(output, at::MemoryFormat::Contiguous));
        to.push_back(static_cast<char*>(drafts.back().mutable_data_ptr()));
      }
      all_gather(input, to);
      for (size_t r = 0; r < drafts.size(); ++r) copy_back(outputs[i][r], drafts[r]);
    }
    return done(c10d::OpType::ALLGATHER, outputs.empty() ? std::vector<at::Tensor>{} : outputs[0]);
  }

  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    reduce_scatter_into(output, input, options.reduceOp);
    return done(c10d::OpType::_REDUCE_SCATTER_BASE, {output});
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter_tensor_coalesced(
      std::vector<at::Tensor>& outputs,
      std::vector<at::Tensor>& inputs,
      const c10d::ReduceScatterOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < inputs.size(); ++i) reduce_scatter_into(outputs[i], inputs[i], options.reduceOp);
    return done(c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, outputs);
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter(
      std::vector<at::Tensor>& outputs,
      std::vector<std::vector<at::Tensor>>& inputs,
      const c10d::ReduceScatterOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto whole = at::stack(inputs[i]);
      reduce_scatter_into(outputs[i], whole, options.reduceOp);
    }
    return done(c10d::OpType::REDUCE_SCATTER, outputs);
  }

  c10::intrusive_ptr<c10d::Work> alltoall_base(
      at::Tensor& output,
      at::Tensor& input,
      std::vector<int64_t>& output_splits,
      std::vector<int64_t>& input_splits,
      const c10d::AllToAllOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    auto from = dense(input);
    auto to = output.is_contiguous() ? output : at::empty_like(output, at::MemoryFormat::Contiguous);
    all_to_all(
        from, parts(from, input_splits, "input"), static_cast<char*>(to.mutable_data_ptr()), parts(to, output_splits, "output"));
    copy_back(output, to);
    return done(c10d::OpType::ALLTOALL_BASE, {output});
  }

  c10::intrusive_ptr<c10d::Work> alltoall(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs, const c10d::AllToAllOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(
        outputs.size() == inputs.size() && inputs.size() == static_cast<size_t>(getSize()),
        "all_to_all takes a tensor a rank");
    std::vector<at::Tensor> flat, drafts;
    std::vector<uint64_t> sent, received;
    int64_t total = 0;
    for (auto& input : inputs) {
      flat.push_back(input.reshape({-1}));
      sent.push_back(input.nbytes());
    }
    for (auto& output : outputs) {
      received.push_back(output.nbytes());
      total += output.numel();
    }
    auto from = dense(at::cat(flat));
    auto to = at::empty({total}, outputs[0].options());
    all_to_all(from, sent, static_cast<char*>(to.mutable_data_ptr()), received);
    int64_t at = 0;
    for (auto& output : outputs) {
      output.copy_(to.narrow(0, at, output.numel()).view(output.sizes()));
      at += output.numel();
    }
    return done(c10d::OpType::ALLTOALL, outputs);
  }

  c10::intrusive_ptr<c10d::Work> broadcast(
      std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& tensor : tensors) broadcast_from(tensor, static_cast<int>(options.rootRank));
    return done(c10d::OpType::BROADCAST, tensors);
  }

  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions&) override {
    std::lock_guard<std::mutex> lock(mutex_);
    Call call;
    call.kind = Kind::barrier;
    begin(call);
    meet(&call);
    return done(c10d::OpType::BARRIER, {});
  }

 private:
  char* base_ = nullptr;
  size_t slot_;
  std::chrono::milliseconds timeout_;
  size_t length_;
  std::vector<int64_t> names_;
  bool spins_ = false;
  uint32_t phase_ = 0;
  Kind doing_ = Kind::none;
  std::vector<int> peers_;
  std::mutex mutex_;

  Control& control(int rank) {
    return reinterpret_cast<Control*>(base_)[rank];
  }

  // The slot of `rank` in the phase that comes next or is on.
  char* slot(int rank) {
    return base_ + getSize() * sizeof(Control) + (2 * rank + (phase_ & 1)) * slot_;
  }

  c10::intrusive_ptr<c10d::Work> done(c10d::OpType type, std::vector<at::Tensor> results) {
    doing_ = Kind::none;
    return c10::make_intrusive<Done>(getRank(), type, std::move(results));
  }

  static at::Tensor dense(const at::Tensor& tensor) {
    TORCH_CHECK(tensor.device().is_cpu(), "the shared-memory backend takes CPU tensors, not ", tensor.device());
    TORCH_CHECK(tensor.layout() == at::kStrided, "the shared-memory backend takes strided tensors");
    return tensor.resolve_conj().resolve_neg().contiguous();
  }

  static void copy_back(at::Tensor& tensor, const at::Tensor& draft) {
    if (!tensor.is_same(draft) && tensor.data_ptr() != draft.data_ptr()) tensor.copy_(draft);
  }

  // --- phases ---

  void begin(const Call& call) {
    doing_ = call.kind;
    ++phase_;
    control(getRank()).call[phase_ & 1] = call;
  }

  // Publish the phase that is on, and wait until every rank has. `call`: what every rank must be doing.
  void meet(const Call* call = nullptr) {
    auto& mine = control(getRank());
    mine.published.store(phase_, std::memory_order_seq_cst);
    if (mine.sleepers.load(std::memory_order_seq_cst) != 0) futex(&mine.published, FUTEX_WAKE, INT32_MAX, nullptr);
    for (int step = 1; step < getSize(); ++step) await((getRank() + step) % getSize());
    if (call != nullptr) agree(*call);
  }

  bool has_come(int rank) {
    return static_cast<int32_t>(control(rank).published.load(std::memory_order_acquire) - phase_) >= 0;
  }

  void await(int rank) {
    if (has_come(rank)) return;
    const auto start = Clock::now();
    while (spins_ && Clock::now() - start < kSpin) {
      for (int turn = 0; turn < 16; ++turn) {
        if (has_come(rank)) return;
        pause_processor();
      }
    }
    auto& other = control(rank);
    const auto deadline = start + timeout_;
    other.sleepers.fetch_add(1, std::memory_order_seq_cst);
    std::string trouble;
    for (;;) {
      const uint32_t seen = other.published.load(std::memory_order_seq_cst);
      if (static_cast<int32_t>(seen - phase_) >= 0) break;
      const timespec nap{0, kSleepMs * 1000000L};
      futex(&other.published, FUTEX_WAIT, seen, &nap);
      if (has_come(rank)) break;
      trouble = trouble_of(rank, deadline);
      if (!trouble.empty()) break;
    }
    other.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (!trouble.empty()) fail(trouble);
  }

  std::string trouble_of(int rank, Clock::time_point deadline) {
    for (int one = 0; one < getSize(); ++one) {
      if (one != getRank() && control(one).failed.load(std::memory_order_acquire)) return std::string(control(one).words);
    }
    if (has_ended(rank) && !has_come(rank)) {
      return c10::str("rank ", names_[rank], " ended, and rank ", names_[getRank()], " waited for it in ", name_of(doing_));
    }
    if (Clock::now() < deadline) return "";
    std::ostringstream absent;
    for (int one = 0; one < getSize(); ++one) {
      if (!has_come(one)) absent << (absent.tellp() > 0 ? ", " : "") << names_[one];
    }
    return c10::str(
        name_of(doing_), " timed out: rank ", names_[getRank()], " waited ", timeout_.count() / 1000.0, " s for rank ", absent.str());
  }

  // Whether a peer's process has ended, also where its parent has not asked for its exit code yet.
  bool has_ended(int rank) {
    if (peers_[rank] < 0) {
      const int process = control(rank).process.load();
      if (process == 0) return false;
      peers_[rank] = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
      if (peers_[rank] < 0) return errno == ESRCH;
    }
    pollfd one{peers_[rank], POLLIN, 0};
    return poll(&one, 1, 0) > 0;
  }

  [[noreturn]] void fail(const std::string& trouble) {
    auto& mine = control(getRank());
    if (!mine.failed.load()) {
      std::strncpy(mine.words, trouble.c_str(), kWords - 1);
      mine.failed.store(1, std::memory_order_release);
    }
    TORCH_CHECK_WITH(DistBackendError, false, trouble);
  }

  void agree(const Call& call) {
    for (int rank = 0; rank < getSize(); ++rank) {
      const Call& theirs = control(rank).call[phase_ & 1];
      if (!(theirs == call)) {
        fail(c10::str(
            "the ranks of a group meet at different collectives: rank ",
            names_[std::min(rank, getRank())],
            " at ",
            (rank < getRank() ? theirs : call).text(),
            "; rank ",
            names_[std::max(rank, getRank())],
            " at ",
            (rank < getRank() ? call : theirs).text()));
      }
    }
  }

  // --- collectives ---

  void all_reduce(at::Tensor& tensor, const c10d::ReduceOp& op) {
    auto held = dense(tensor);
    const auto reduce = reduction(held.scalar_type(), op);
    const double divisor = op == c10d::ReduceOp::AVG ? getSize() : 1.0;
    char* data = static_cast<char*>(held.mutable_data_ptr());
    const size_t total = held.nbytes();
    Call call{Kind::all_reduce, static_cast<int32_t>(held.scalar_type()), static_cast<int32_t>(op.op_), -1, total};
    begin(call);
    if (total <= kSmall) {
      std::memcpy(slot(getRank()), data, total);
      meet(&call);
      std::vector<const char*> from;
      for (int rank = 0; rank < getSize(); ++rank) from.push_back(slot(rank));
      reduce(from, data, total, divisor);
    } else {
      all_reduce_in_slices(data, total, held.element_size(), reduce, divisor, call);
    }
    copy_back(tensor, held);
  }

  // Every rank reduces one slice of each chunk; the first phase brings a slice's summands, the second its result.
  void all_reduce_in_slices(
      char* data, size_t total, size_t element, Reduce reduce, double divisor, const Call& call) {
    const size_t size = getSize();
    const size_t chunk = slot_ / kLine * kLine;
    bool is_first = true;
    for (size_t start = 0; start < total; start += chunk) {
      const size_t here = std::min(chunk, total - start);
      const size_t share = (here / element + size - 1) / size * element;
      auto begins = [&](size_t rank) { return std::min(rank * share, here); };
      auto length = [&](size_t rank) { return begins(rank + 1) - begins(rank); };
      if (!is_first) ++phase_;
      const size_t mine = getRank();
      for (size_t rank = 0; rank < size; ++rank) {
        if (rank != mine) std::memcpy(slot(mine) + begins(rank), data + start + begins(rank), length(rank));
      }
      meet(is_first ? &call : nullptr);
      is_first = false;
      std::vector<const char*> from;
      for (size_t rank = 0; rank < size; ++rank) {
        from.push_back((rank == mine ? data + start : slot(rank)) + begins(mine));
      }
      ++phase_;
      char* result = slot(mine);
      reduce(from, result, length(mine), divisor);
      std::memcpy(data + start + begins(mine), result, length(mine));
      meet();
      for (size_t rank = 0; rank < size; ++rank) {
        if (rank != mine) std::memcpy(data + start + begins(rank), slot(rank), length(rank));
      }
    }
  }

  void all_gather_into(at::Tensor& output, const at::Tensor& given) {
    auto input = dense(given);
    TORCH_CHECK(
        output.nbytes() == input.nbytes() * getSize(),
        "all_gather: the output holds ", output.nbytes(), " bytes, ", getSize(), " times the input's ", input.nbytes(), " are needed");
    auto draft = output.is_contiguous() ? output : at::empty_like(output, at::MemoryFormat::Contiguous);
    std::vector<char*> to;
    for (int rank = 0; rank < getSize(); ++rank) {
      to.push_back(static_cast<char*>(draft.mutable_data_ptr()) + rank * input.nbytes());
    }
    all_gather(input, to);
    copy_back(output, draft);
  }

  void all_gather(const at::Tensor& input, const std::vector<char*>& to) {
    const char* data = static_cast<const char*>(input.const_data_ptr());
    const size_t total = input.nbytes();
    Call call{Kind::all_gather, static_cast<int32_t>(input.scalar_type()), -1, -1, total};
    begin(call);
    bool is_first = true;
    size_t start = 0;
    do {
      const size_t here = std::min(slot_, total - start);
      if (!is_first) ++phase_;
      std::memcpy(slot(getRank()), data + start, here);
      meet(is_first ? &call : nullptr);
      is_first = false;
      for (int rank = 0; rank < getSize(); ++rank) {
        const char* from = rank == getRank() ? data + start : slot(rank);
        if (to[rank] + start != from) std::memcpy(to[rank] + start, from, here);
      }
      start += here;
    } while (start < total);
  }

  void reduce_scatter_into(at::Tensor& output, const at::Tensor& given, const c10d::ReduceOp& op) {
    auto input = dense(given);
    TORCH_CHECK(
        input.nbytes() == output.nbytes() * getSize(),
        "reduce_scatter: the input holds ", input.nbytes(), " bytes, ", getSize(), " times the output's ", output.nbytes(), " are needed");
    auto draft = output.is_contiguous() ? output : at::empty_like(output, at::MemoryFormat::Contiguous);
    const auto reduce = reduction(input.scalar_type(), op);
    const double divisor = op == c10d::ReduceOp::AVG ? getSize() : 1.0;
    const char* data = static_cast<const char*>(input.const_data_ptr());
    char* to = static_cast<char*>(draft.mutable_data_ptr());
    const size_t size = getSize(), total = draft.nbytes(), mine = getRank();
    Call call{Kind::reduce_scatter, static_cast<int32_t>(input.scalar_type()), static_cast<int32_t>(op.op_), -1, total};
    begin(call);
    // A slot holds a piece for every rank.
    const size_t piece = slot_ / size / kLine * kLine;
    bool is_first = true;
    size_t start = 0;
    do {
      const size_t here = std::min(piece, total - start);
      if (!is_first) ++phase_;
      for (size_t rank = 0; rank < size; ++rank) {
        if (rank != mine) std::memcpy(slot(mine) + rank * piece, data + rank * total + start, here);
      }
      meet(is_first ? &call : nullptr);
      is_first = false;
      std::vector<const char*> from;
      for (size_t rank = 0; rank < size; ++rank) {
        from.push_back(rank == mine ? data + mine * total + start : slot(rank) + mine * piece);
      }
      reduce(from, to + start, here, divisor);
      start += here;
    } while (start < total);
    copy_back(output, draft);
  }

  // Bytes for (or from) every rank, from sizes of the first dim; none: equal parts.
  std::vector<uint64_t> parts(const at::Tensor& tensor, const std::vector<int64_t>& splits, const char* which) {
    std::vector<uint64_t> found;
    if (splits.empty()) {
      TORCH_CHECK(
          tensor.dim() > 0 && tensor.size(0) % getSize() == 0,
          "all_to_all: the first dim of the ", which, " does not divide by ", getSize());
      found.assign(getSize(), tensor.nbytes() / getSize());
      return found;
    }
    TORCH_CHECK(static_cast<int>(splits.size()) == getSize(), "all_to_all: a size a rank is needed for the ", which);
    const uint64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1;
    const uint64_t row = rows > 0 ? tensor.nbytes() / rows : 0;
    uint64_t sum = 0;
    for (int64_t one : splits) {
      TORCH_CHECK(one >= 0, "all_to_all: a negative size for the ", which);
      found.push_back(static_cast<uint64_t>(one) * row);
      sum += one;
    }
    TORCH_CHECK(sum == rows, "all_to_all: the sizes sum to ", sum, ", the ", which, " has ", rows, " rows");
    return found;
  }

  void all_to_all(
      const at::Tensor& input, const std::vector<uint64_t>& sent, char* to, const std::vector<uint64_t>& received) {
    const size_t size = getSize(), mine = getRank();
    const char* data = static_cast<const char*>(input.const_data_ptr());
    Call call{Kind::all_to_all, static_cast<int32_t>(input.scalar_type()), -1, -1, 0};
    begin(call);
    // What every rank sends to every rank, so that all know how many rounds there are.
    std::memcpy(slot(mine), sent.data(), size * sizeof(uint64_t));
    meet(&call);
    uint64_t most = 0;
    std::string trouble;
    for (size_t rank = 0; rank < size; ++rank) {
      const auto* theirs = reinterpret_cast<const uint64_t*>(slot(rank));
      most = std::max(most, *std::max_element(theirs, theirs + size));
      if (theirs[mine] != received[rank] && trouble.empty()) {
        trouble = c10::str(
            "all_to_all: rank ", names_[rank], " sends ", theirs[mine], " bytes to rank ", names_[mine], ", which expects ", received[rank]);
      }
    }
    if (!trouble.empty()) fail(trouble);
    std::vector<uint64_t> from_at(size, 0), to_at(size, 0);
    for (size_t rank = 1; rank < size; ++rank) {
      from_at[rank] = from_at[rank - 1] + sent[rank - 1];
      to_at[rank] = to_at[rank - 1] + received[rank - 1];
    }
    const uint64_t piece = slot_ / size / kLine * kLine;
    for (uint64_t start = 0; start < most; start += piece) {
      ++phase_;
      auto here = [&](uint64_t bytes) { return bytes > start ? std::min(piece, bytes - start) : 0; };
      for (size_t rank = 0; rank < size; ++rank) {
        if (rank != mine) std::memcpy(slot(mine) + rank * piece, data + from_at[rank] + start, here(sent[rank]));
      }
      meet();
      for (size_t rank = 0; rank < size; ++rank) {
        const char* from = rank == mine ? data + from_at[mine] + start : slot(rank) + mine * piece;
        std::memcpy(to + to_at[rank] + start, from, here(received[rank]));
      }
    }
  }

  void broadcast_from(at::Tensor& tensor, int root) {
    TORCH_CHECK(0 <= root && root < getSize(), "broadcast: there is no rank ", root, " in the group");
    auto held = dense(tensor);
    char* data = static_cast<char*>(held.mutable_data_ptr());
    const size_t total = held.nbytes();
    Call call{Kind::broadcast, static_cast<int32_t>(held.scalar_type()), -1, root, total};
    begin(call);
    bool is_first = true;
    size_t start = 0;
    do {
      const size_t here = std::min(slot_, total - start);
      if (!is_first) ++phase_;
      if (getRank() == root) std::memcpy(slot(root), data + start, here);
      meet(is_first ? &call : nullptr);
      is_first = false;
      if (getRank() != root) std::memcpy(data + start, slot(root), here);
      start += here;
    } while (start < total);
    copy_back(tensor, held);
  }
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("bytes", &SharedMemory::bytes, "The length of the memory for a group of `size` ranks with slots of `slot` bytes.");
  m.def(
      "make",
      [](int rank, int size, int file, size_t slot, std::chrono::milliseconds timeout, std::vector<int64_t> names) {
        return c10::static_intrusive_pointer_cast<c10d::Backend>(
            c10::make_intrusive<SharedMemory>(rank, size, file, slot, timeout, std::move(names)));
      },
      "One rank's side of a group.");
}
