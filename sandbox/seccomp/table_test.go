package seccomp

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the tables of system calls anew")

// The tables come from a library that follows the kernel's headers.
func TestTables(t *testing.T) {
	for goarch, info := range map[string]*arch.Info{"amd64": arch.X86_64, "arm64": arch.AARCH64} {
		var want strings.Builder
		for _, num := range slices.Sorted(func(yield func(int) bool) {
			for n := range info.SyscallNumbers {
				if !yield(n) {
					return
				}
			}
		}) {
			fmt.Fprintf(&want, "%s %d\n", info.SyscallNumbers[num], num)
		}
		if *update {
			if err := os.WriteFile("calls_"+goarch+".txt", []byte(want.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(want.String(), table(goarch)); diff != "" {
			t.Errorf("calls_%s.txt (-want +got); run go test -update:\n%s", goarch, diff)
		}
	}
}
