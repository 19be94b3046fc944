package static

import (
	"testing"

	"golang.org/x/sys/unix"
)

// exchangeNames swaps what two paths lead to.
func exchangeNames(t *testing.T, a, b string) {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Error(err)
	}
}
