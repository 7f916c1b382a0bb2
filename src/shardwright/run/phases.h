// The memory of a group of ranks, and the phases in which they meet.
//
// The memory holds, for every rank, a control block and two slots. Phases are numbered alike on all ranks. In phase p
// a rank writes into its slot p % 2, publishes p, waits until every rank has published p, and reads the others' slots.
// A rank that has published p has read what it needed of phase p - 1, so the slot of phase p - 1 is free for phase
// p + 1: two slots suffice, and a small collective costs one round.
//
// A waiting rank spins for a moment and then sleeps on a futex; while it sleeps it looks whether its peers live. Once
// a collective has failed, every later one of the group fails with the same words.

#pragma once

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/futex.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace shardwright {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr size_t kLine = 128;  // bytes that two ranks never both write
constexpr auto kSpin = std::chrono::microseconds(100);  // about twice what falling asleep and waking takes
constexpr int kNapMs = 20;
constexpr size_t kWords = 256;

enum class Kind : uint32_t {
  none,
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  broadcast,
  reduce,
  gather,
  scatter,
  barrier
};

inline const char* name_of(Kind kind) {
  static const char* names[] = {
      "nothing", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce", "gather", "scatter", "barrier"};
  return names[static_cast<uint32_t>(kind)];
}

// What a rank says of its call; the ranks of a group must agree. `bytes`: of the parts that all ranks know.
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
    if (root >= 0) out << ", rank " << root << " of the group its root";
    return out.str();
  }
};

struct alignas(kLine) Control {
  alignas(kLine) std::atomic<uint32_t> published{0};
  std::atomic<uint32_t> sleepers{0};
  alignas(kLine) std::atomic<int32_t> process{0};
  std::atomic<uint32_t> failed{0};
  char words[kWords] = {};
  cpu_set_t cores;
  alignas(kLine) Call call[2];
};

static_assert(std::atomic<uint32_t>::is_always_lock_free, "ranks share these words");

inline void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline long futex(std::atomic<uint32_t>* word, int what, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), what, value, timeout, nullptr, 0);
}

class Phases {
 public:
  // `file`: of the memory, which is `bytes(size, slot)` long and zero when the first rank maps it. `names`: what
  // messages call the ranks of the group.
  Phases(int rank, int size, int file, size_t slot, std::vector<int64_t> names)
      : rank_(rank), size_(size), slot_(slot), length_(bytes(size, slot)), names_(std::move(names)), peers_(size, -1) {
    TORCH_CHECK(static_cast<int>(names_.size()) == size, "a name a rank is needed");
    void* place = mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    TORCH_CHECK(place != MAP_FAILED, "cannot map the shared memory: ", std::strerror(errno));
    base_ = static_cast<char*>(place);
    auto& mine = control(rank_);
    CPU_ZERO(&mine.cores);
    sched_getaffinity(0, sizeof(mine.cores), &mine.cores);
    mine.process.store(static_cast<int32_t>(getpid()));
  }

  Phases(const Phases&) = delete;
  Phases& operator=(const Phases&) = delete;

  ~Phases() {
    for (int peer : peers_) {
      if (peer >= 0) close(peer);
    }
    munmap(base_, length_);
  }

  static size_t bytes(int size, size_t slot) {
    return size * (sizeof(Control) + 2 * slot);
  }

  int rank() const {
    return rank_;
  }

  int size() const {
    return size_;
  }

  uint32_t number() const {
    return number_;
  }

  // The slot of `rank` in the phase that is on.
  char* slot(int rank) {
    return slot_of(rank, number_);
  }

  // And in the one before.
  char* last_slot(int rank) {
    return slot_of(rank, number_ - 1);
  }

  size_t slot_bytes() const {
    return slot_;
  }

  int64_t name(int rank) const {
    return names_[rank];
  }

  // Begin a phase. `call`: of the collective that begins with it; null: one goes on.
  void begin(const Call* call) {
    ++number_;
    if (call != nullptr) control(rank_).call[number_ & 1] = *call;
  }

  void publish() {
    auto& mine = control(rank_);
    mine.published.store(number_, std::memory_order_seq_cst);
    if (mine.sleepers.load(std::memory_order_seq_cst) != 0) futex(&mine.published, FUTEX_WAKE, INT32_MAX, nullptr);
  }

  // Whether every rank has published the phase that is on.
  bool all_have_come() {
    for (int step = 1; step < size_; ++step) {
      if (!has_come((rank_ + step) % size_)) return false;
    }
    if (!have_met_) get_to_know();
    return true;
  }

  // Wait until every rank has; fails where one does not in time.
  void await_all(Kind doing, Milliseconds timeout) {
    for (int step = 1; step < size_; ++step) await((rank_ + step) % size_, doing, timeout);
  }

  // Fail unless every rank is at `call`.
  void agree(const Call& call) {
    for (int rank = 0; rank < size_; ++rank) {
      const Call& theirs = control(rank).call[number_ & 1];
      if (theirs == call) continue;
      const int first = std::min(rank, rank_), second = std::max(rank, rank_);
      fail(c10::str(
          "the ranks of a group meet at different collectives: rank ", names_[first], " at ",
          (rank < rank_ ? theirs : call).text(), "; rank ", names_[second], " at ", (rank < rank_ ? call : theirs).text()));
    }
  }

  // Fail this call and all later ones of the group, on every rank.
  [[noreturn]] void fail(const std::string& words) {
    auto& mine = control(rank_);
    if (failure_.empty()) {
      failure_ = words;
      std::strncpy(mine.words, words.c_str(), kWords - 1);
      mine.failed.store(1, std::memory_order_release);
    }
    check();
    std::abort();  // not reached
  }

  // Raise the failure of an earlier call.
  void check() {
    TORCH_CHECK_WITH(DistBackendError, failure_.empty(), failure_);
  }

 private:
  int rank_, size_;
  size_t slot_, length_;
  std::vector<int64_t> names_;
  std::vector<int> peers_;
  char* base_ = nullptr;
  uint32_t number_ = 0;
  bool have_met_ = false;
  bool spins_ = false;
  std::string failure_;

  Control& control(int rank) {
    return reinterpret_cast<Control*>(base_)[rank];
  }

  char* slot_of(int rank, uint32_t phase) {
    return base_ + size_ * sizeof(Control) + (2 * rank + (phase & 1)) * slot_;
  }

  bool has_come(int rank) {
    return static_cast<int32_t>(control(rank).published.load(std::memory_order_acquire) - number_) >= 0;
  }

  // What ranks say of themselves is there once all have met.
  void get_to_know() {
    have_met_ = true;
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int rank = 0; rank < size_; ++rank) {
      CPU_OR(&all, &all, &control(rank).cores);
      has_ended(rank);
    }
    // With more ranks than processors, the one that is waited for needs the processor.
    spins_ = CPU_COUNT(&all) >= size_;
  }

  void await(int rank, Kind doing, Milliseconds timeout) {
    if (has_come(rank)) return;
    const auto start = Clock::now();
    while (spins_ && Clock::now() - start < kSpin) {
      for (int turn = 0; turn < 16; ++turn) {
        if (has_come(rank)) return;
        pause_processor();
      }
    }
    auto& other = control(rank);
    other.sleepers.fetch_add(1, std::memory_order_seq_cst);
    std::string trouble;
    while (trouble.empty()) {
      const uint32_t seen = other.published.load(std::memory_order_seq_cst);
      if (static_cast<int32_t>(seen - number_) >= 0) break;
      const auto left = std::chrono::duration_cast<Milliseconds>(start + timeout - Clock::now()).count() + 1;
      const timespec nap{0, std::min<long>(std::max<long>(left, 1), kNapMs) * 1000000L};
      futex(&other.published, FUTEX_WAIT, seen, &nap);
      if (!has_come(rank)) trouble = trouble_with(rank, doing, timeout, start + timeout);
    }
    other.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (!trouble.empty()) fail(trouble);
  }

  std::string trouble_with(int rank, Kind doing, Milliseconds timeout, Clock::time_point deadline) {
    for (int one = 0; one < size_; ++one) {
      if (one != rank_ && control(one).failed.load(std::memory_order_acquire)) return std::string(control(one).words);
    }
    if (has_ended(rank) && !has_come(rank)) {
      return c10::str("rank ", names_[rank], " ended, and rank ", names_[rank_], " waited for it in ", name_of(doing));
    }
    if (Clock::now() < deadline) return "";
    std::ostringstream absent;
    for (int one = 0; one < size_; ++one) {
      if (!has_come(one)) absent << (absent.tellp() > 0 ? ", " : "") << names_[one];
    }
    return c10::str(
        name_of(doing), " timed out: rank ", names_[rank_], " waited ", timeout.count() / 1000.0, " s for rank ", absent.str());
  }

  // Whether a peer's process has ended, also where its parent has not asked for its exit code yet.
  bool has_ended(int rank) {
    if (rank == rank_) return false;
    if (peers_[rank] < 0) {
      const int process = control(rank).process.load();
      if (process == 0) return false;
      peers_[rank] = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
      if (peers_[rank] < 0) return errno == ESRCH;
    }
    pollfd one{peers_[rank], POLLIN, 0};
    return poll(&one, 1, 0) > 0;
  }
};

}  // namespace shardwright
