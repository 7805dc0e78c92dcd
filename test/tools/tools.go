//go:build tools

// Package tools pins the Go programs that the tests drive Berth with; scripts/go-tools.mjs builds them.
// None of them is part of Berth.
package tools

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
