// Sparse tensors: their parts (indices and values) are ordinary tensors of the device, and the CPU's kernels compute with
// them where they lie, as `Fallback` has it for dense ones.
#pragma once
#include <ATen/SparseCsrTensorImpl.h>
#include <ATen/SparseCsrTensorUtils.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/ops/_sparse_compressed_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors.h>

#include "runtime.hpp"

namespace simgpu {

inline bool is_compressed(c10::Layout layout) {
  return layout == c10::kSparseCsr || layout == c10::kSparseCsc || layout == c10::kSparseBsr || layout == c10::kSparseBsc;
}
inline bool is_sparse(const Tensor& t) { return t.layout() == c10::kSparse || is_compressed(t.layout()); }

// The dense tensors inside: {indices, values} or {compressed indices, plain indices, values}.
inline std::vector<Tensor> parts_of(const Tensor& t) {
  if (t.layout() == c10::kSparse) {
    auto* impl = at::sparse::get_sparse_impl(t);
    return {impl->indices(), impl->values()};
  }
  auto* impl = at::sparse_csr::get_sparse_csr_impl(t);
  return {impl->compressed_indices(), impl->plain_indices(), impl->values()};
}

// A sparse tensor of another's form around these parts, on the device where they are.
inline Tensor around(const std::vector<Tensor>& parts, const Tensor& form) {
  const auto& values = parts.back();
  if (form.layout() == c10::kSparse)
    return at::_sparse_coo_tensor_with_dims_and_tensors(form.sparse_dim(), form.dense_dim(), form.sizes(), parts[0], values,
                                                        values.options().layout(c10::kSparse), form.is_coalesced());
  // torch's own constructor knows no device beyond its list
  auto key = values.is_privateuseone() ? c10::DispatchKey::SparseCsrPrivateUse1 : c10::DispatchKey::SparseCsrCPU;
  Tensor made = at::detail::make_tensor<at::SparseCsrTensorImpl>(c10::DispatchKeySet(key), values.device(), form.layout(), values.dtype());
  at::sparse_csr::get_sparse_csr_impl(made)->set_member_tensors(parts[0], parts[1], values, form.sizes());
  return made;
}

// Gives a sparse tensor other parts and another's form, in place.
inline void become(const Tensor& t, const std::vector<Tensor>& parts, const Tensor& form) {
  if (t.layout() != c10::kSparse)
    return at::sparse_csr::get_sparse_csr_impl(t)->set_member_tensors(parts[0], parts[1], parts[2], form.sizes());
  auto* impl = at::sparse::get_sparse_impl(t);
  impl->raw_resize_(form.sparse_dim(), form.dense_dim(), form.sizes());
  impl->set_indices_and_values_unsafe(parts[0], parts[1]);
  impl->set_coalesced(form.is_coalesced());
}
}  // namespace simgpu
