package listen

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unseen is who has an address that no process seen here has.
const unseen = "by a program that cannot be seen from here"

// holder says which process listens on address, as far as /proc tells, and
// what to do about it.
func holder(address string) (who, hint string) {
	inodes, like := map[string]bool{}, map[string]bool{}
	switch address[0] {
	case '/', '@':
		scanTable("/proc/net/unix", func(f []string) {
			if len(f) < 8 {
				return
			}
			if f[7] == address {
				inodes["socket:["+f[6]+"]"] = true
			}
			// What Liege binds has the name of a descriptor's directory, which
			// says no more than that it may be this one.
			if strings.HasPrefix(f[7], "/proc/self/fd/") && filepath.Base(f[7]) == filepath.Base(address) {
				like["socket:["+f[6]+"]"] = true
			}
		})
	default:
		_, port, err := net.SplitHostPort(address)
		n, err2 := strconv.Atoi(port)
		if err != nil || err2 != nil {
			break
		}
		suffix := fmt.Sprintf(":%04X", n)
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			scanTable(table, func(f []string) {
				if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], suffix) {
					inodes["socket:["+f[9]+"]"] = true
				}
			})
		}
	}
	pid, command := socketOwner(inodes)
	if len(inodes) == 0 {
		if pid, command = socketOwner(like); pid != 0 {
			return "a vassal, or another Liege, listens there", "name another address"
		}
	}
	if pid == 0 {
		return unseen, "ss -ltnp shows who; another network namespace or container may have it"
	}
	hint = fmt.Sprintf("stop it (kill %d), or name another address", pid)
	if pid == os.Getpid() { // at an address that includes this one
		hint = "name another address"
	}
	if strings.HasPrefix(command, "uwsgi") {
		hint = "systemctl stop uwsgi uwsgi-emperor, or name another address"
	}
	return fmt.Sprintf("pid %d (%s) listens there", pid, command), hint
}

// scanTable calls f with the fields of each line of a file of /proc/net.
func scanTable(name string, f func(fields []string)) {
	file, err := os.Open(name)
	if err != nil {
		return // no IPv6, say
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		f(strings.Fields(s.Text()))
	}
}

// socketOwner finds the first process that has one of the sockets open.
func socketOwner(inodes map[string]bool) (pid int, command string) {
	if len(inodes) == 0 {
		return 0, ""
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, ""
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + p.Name()
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue // it is gone, or not for us to see
		}
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && inodes[to] {
				comm, err := os.ReadFile(dir + "/comm")
				if err != nil {
					comm = []byte("?")
				}
				return pid, strings.TrimSpace(string(comm))
			}
		}
	}
	return 0, ""
}
