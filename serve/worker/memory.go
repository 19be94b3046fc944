package worker

import (
	"os"
	"strconv"
	"strings"
)

// MemoryOf is the size of a process's address space and of what of it is in
// memory, in bytes (proc(5), statm); 0 where /proc does not say, and of the
// core, which no worker is.
func MemoryOf(pid int) (size, resident int64) {
	if pid <= 1 {
		return 0, 0
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if f := strings.Fields(string(b)); err == nil && len(f) >= 2 {
		size, _ = strconv.ParseInt(f[0], 10, 64)
		resident, _ = strconv.ParseInt(f[1], 10, 64)
	}
	page := int64(os.Getpagesize())
	return size * page, resident * page
}
