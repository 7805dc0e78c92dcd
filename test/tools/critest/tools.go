//go:build tools

// Package critest pins the conformance suite. It is a module of its own because the suite's development versions are
// newer than the crictl that users have.
package critest

// The program itself is a test binary, which cannot be imported: what it is made of is.
import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
