// Operators with kernels of their own: what makes tensors, moves bytes, or would otherwise decompose differently.
#pragma once
#include <ATen/EmptyTensor.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>

#include "fallback.hpp"

namespace simgpu {
using MaybeTensor = std::optional<Tensor>;
using Sizes = c10::IntArrayRef;
const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

// ---------------------------------------------------------------- making tensors
inline c10::Device device_for(std::optional<c10::Device> d, std::optional<c10::Layout> layout, std::optional<bool> pin) {
  TORCH_CHECK(c10::layout_or_default(layout) == c10::kStrided && !c10::pinned_memory_or_default(pin),
              "simgpu: the simulated GPU has strided, unpinned tensors only");
  return {kSimGpu, Guard::or_current(d ? d->index() : -1)};
}
inline Tensor empty_memory_format(Sizes size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                                  std::optional<c10::Device> device, std::optional<bool> pin, std::optional<c10::MemoryFormat> format) {
  c10::DeviceGuard guard(device_for(device, layout, pin));
  return at::detail::empty_generic(size, &allocator(), kKeys, c10::dtype_or_default(dtype), format);
}
inline Tensor empty_strided(Sizes size, Sizes stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                            std::optional<c10::Device> device, std::optional<bool> pin) {
  c10::DeviceGuard guard(device_for(device, layout, pin));
  return at::detail::empty_strided_generic(size, stride, &allocator(), kKeys, c10::dtype_or_default(dtype));
}
inline Tensor& set_storage_part(Tensor& t, at::Storage s, int64_t offset, Sizes size, Sizes stride) {
  return at::cpu::set_(t, s, offset, size, stride);
}
inline Tensor& set_storage(Tensor& t, at::Storage s) {
  return at::cpu::set_(t, s, 0, {(int64_t)(s.nbytes() / t.dtype().itemsize())}, {});
}
inline Tensor& set_empty(Tensor& t) {
  c10::DeviceGuard guard(t.device());
  at::Storage s(c10::Storage::use_byte_size_t(), 0, allocator().allocate(0), &allocator(), true);
  return at::cpu::set_(t, s, 0, {0}, {});
}
inline Tensor& set_tensor(Tensor& t, const Tensor& source) { return at::native::set_tensor_(t, source); }
inline const Tensor& resize(const Tensor& t, Sizes size, std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(t.device());
  return at::native::resize_(t, size, format);
}

// ---------------------------------------------------------------- moving bytes
inline void flip_one_bit(const Tensor& t) {
  if (t.numel()) *static_cast<uint8_t*>(t.data_ptr()) ^= 1;
}
inline Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  auto& board = connection();
  board.refuse_forked();
  const DeviceIndex d = (to.is_privateuseone() ? to : from).device().index();
  const bool within = from.is_privateuseone() && to.is_privateuseone();
  const int fault = board.fail_if_scripted("copy", d);
  if (!from.numel()) return to;
  Copy copy{host_view(to), host_view(from), to, from};
  Queue& q = queue(d);
  if (non_blocking && !within && board.mode(MODE_DELAY_COPIES)) {
    std::lock_guard<std::recursive_mutex> guard(q.mutex);
    q.asked++;
    q.waiting.push_back(std::move(copy));
    return to;
  }
  drain(d);
  if (within) drain(from.device().index());
  copy.run(d);
  if (fault == FAULT_FLIP_BIT) {
    Access access;
    flip_one_bit(to);
  }
  return to;
}
inline Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (to.sizes() != from.sizes()) to.resize_(from.sizes());
  return copy_from(from, to, false);
}
inline at::Scalar local_scalar_dense(const Tensor& t) {
  Operator scope(t.device().index());
  return host_view(t).item();
}
inline void record_stream(Tensor&, at::Stream) {}

// ---------------------------------------------------------------- convolution: the CPU's, on the device's bytes
inline Tensor convolution(const Tensor& x, const Tensor& w, const MaybeTensor& bias, Sizes stride, Sizes padding, Sizes dilation,
                          bool transposed, Sizes output_padding, int64_t groups) {
  Operator scope(x.device().index());
  MaybeTensor host_bias;
  if (bias && bias->defined()) host_bias = host_view(*bias);
  return at::convolution(host_view(x), host_view(w), host_bias, stride, padding, dilation, transposed, output_padding, groups)
      .to(x.device());
}
inline std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& x, const Tensor& w, Sizes stride,
    Sizes padding, Sizes dilation, bool transposed, Sizes output_padding, int64_t groups, std::array<bool, 3> mask) {
  Operator scope(x.device().index());
  std::vector<int64_t> bias{w.size(transposed ? 1 : 0) * (transposed ? groups : 1)};
  auto r = at::convolution_backward(host_view(grad), host_view(x), host_view(w), bias, stride, padding, dilation, transposed,
                                    output_padding, groups, mask);
  auto back = [&](const Tensor& t) { return t.defined() ? t.to(x.device()) : t; };
  return {back(std::get<0>(r)), back(std::get<1>(r)), back(std::get<2>(r))};
}

// ---------------------------------------------------------------- recurrent cells: torch asks accelerators for fused ones
inline bool given(const MaybeTensor& t) { return t && t->defined(); }
inline std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& from_input, const Tensor& from_hidden, const Tensor& cx,
                                                    const MaybeTensor& input_bias, const MaybeTensor& hidden_bias) {
  Tensor gates = from_input + from_hidden;
  if (given(input_bias)) gates = gates + *input_bias + *hidden_bias;
  auto c = gates.chunk(4, 1);
  Tensor in = c[0].sigmoid(), forget = c[1].sigmoid(), cell = c[2].tanh(), out = c[3].sigmoid();
  Tensor cy = forget * cx + in * cell;
  return {out * cy.tanh(), cy, at::cat({in, forget, cell, out}, 1)};
}
inline std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const MaybeTensor& grad_hy, const MaybeTensor& grad_cy, const Tensor& cx,
                                                             const Tensor& cy, const Tensor& workspace, bool has_bias) {
  auto c = workspace.chunk(4, 1);
  Tensor in = c[0], forget = c[1], cell = c[2], out = c[3], t = cy.tanh();
  Tensor gh = given(grad_hy) ? *grad_hy : at::zeros_like(cy), gc = given(grad_cy) ? *grad_cy : at::zeros_like(cy);
  Tensor dc = gc + gh * out * (1 - t * t);
  Tensor gates = at::cat({dc * cell * in * (1 - in), dc * cx * forget * (1 - forget), dc * in * (1 - cell * cell),
                          gh * t * out * (1 - out)}, 1);
  return {gates, dc * forget, has_bias ? gates.sum(0) : Tensor()};
}
inline std::tuple<Tensor, Tensor> gru_cell(const Tensor& from_input, const Tensor& from_hidden, const Tensor& hx,
                                           const MaybeTensor& input_bias, const MaybeTensor& hidden_bias) {
  auto i = (given(input_bias) ? from_input + *input_bias : from_input).chunk(3, 1);
  auto h = (given(hidden_bias) ? from_hidden + *hidden_bias : from_hidden).chunk(3, 1);
  Tensor reset = (i[0] + h[0]).sigmoid(), update = (i[1] + h[1]).sigmoid(), fresh = (i[2] + reset * h[2]).tanh();
  return {(hx - fresh) * update + fresh, at::cat({reset, update, fresh, hx, h[2]}, 1)};
}
inline std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad_hy, const Tensor& workspace, bool has_bias) {
  auto w = workspace.chunk(5, 1);
  Tensor reset = w[0], update = w[1], fresh = w[2], hx = w[3], hidden = w[4];
  Tensor g_update = grad_hy * (hx - fresh) * (1 - update) * update;
  Tensor g_fresh = grad_hy * (1 - update) * (1 - fresh * fresh);
  Tensor g_reset = g_fresh * hidden * (1 - reset) * reset;
  Tensor g_input = at::cat({g_reset, g_update, g_fresh}, 1), g_hidden = at::cat({g_reset, g_update, g_fresh * reset}, 1);
  return {g_input, g_hidden, grad_hy * update, has_bias ? g_input.sum(0) : Tensor(), has_bias ? g_hidden.sum(0) : Tensor()};
}
}  // namespace simgpu
