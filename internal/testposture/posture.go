// Package testposture is what the probe of e2e/testdata/posture needs to know of
// the machine that it runs on.
package testposture

import (
	"fmt"
	"os"
	"strings"
)

// Environ is the probe's environment: the system calls by name and number (the
// text of a file calls_ARCH.txt of sandbox/seccomp), the namespaces of this
// process, the directory that is called DIR in its answer, and what it shall not
// reach: an abstract socket, a TCP address, the Emperor's socket, a file of
// root's, and one of another vassal's.
func Environ(calls, top string, beyond [5]string) ([]string, error) {
	var numbers, spaces []string
	for line := range strings.Lines(calls) {
		name, n, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			return nil, fmt.Errorf("%q is no name and number of a system call", line)
		}
		numbers = append(numbers, name+"="+n)
	}
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		to, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return nil, err
		}
		spaces = append(spaces, name+"="+to)
	}
	return []string{
		"PROBE_CALLS=" + strings.Join(numbers, ","), "PROBE_NS=" + strings.Join(spaces, ","), "PROBE_TOP=" + top,
		"PROBE_HOST=" + strings.Join(beyond[:], ","),
	}, nil
}
