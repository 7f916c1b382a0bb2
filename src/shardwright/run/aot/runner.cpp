// Runs AOTInductor packages without holding Python's interpreter lock.
//
// torch's own binding of the loader holds the lock while the compiled code runs. On gloo that code waits for other
// ranks, and gloo's threads need the lock to free tensors that Python has seen, while they hold the queue that the
// compiled code is about to enter: the ranks wait for each other for ever. An operator called through torch's
// dispatcher gives the lock back.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <ATen/Tensor.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/library.h>

namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

std::mutex guard;
std::map<int64_t, std::shared_ptr<Loader>> opened;
int64_t next_number = 0;

int64_t open_program(std::string path, int64_t device_index) {
  auto loader = std::make_shared<Loader>(
      path, "model", /*run_single_threaded=*/false, /*num_runners=*/1, static_cast<c10::DeviceIndex>(device_index));
  std::lock_guard<std::mutex> lock(guard);
  opened[next_number] = std::move(loader);
  return next_number++;
}

std::vector<at::Tensor> run_program(int64_t number, std::vector<at::Tensor> inputs) {
  std::shared_ptr<Loader> loader;
  {
    std::lock_guard<std::mutex> lock(guard);
    loader = opened.at(number);
  }
  return loader->boxed_run(std::move(inputs));
}

void close_program(int64_t number) {
  std::lock_guard<std::mutex> lock(guard);
  opened.erase(number);
}

}  // namespace

TORCH_LIBRARY(shardwright_aoti_1, m) {
  m.def("open(str path, int device_index) -> int", open_program);
  m.def("run(int number, Tensor[] inputs) -> Tensor[]", run_program);
  m.def("close(int number) -> ()", close_program);
}
