package listen

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
)

// unseen is who has an address that no process seen here has.
const unseen = "by a program that cannot be seen from here"

// holder says which process listens on address, as far as /proc tells, and
// what to do about it. Processes of vassals are those below the cgroup all.
func holder(address, all string) (who, hint string) {
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
		inodes = listening(uint16(n), func(netip.Addr) bool { return true })
	}
	has := socketOwner(inodes, all)
	if len(inodes) == 0 {
		if has = socketOwner(like, all); has.pid != 0 {
			return "a vassal, or another Liege, listens there", "liege ls says which has it; liege stop NAME, or name another address"
		}
	}
	return has.advice()
}

// taken says who has l's address.
func (m *maker) taken(l vassal.Listener) error {
	if r := m.set.reg.rival(l, m.set); r != "" {
		return inUse(l, r, "name another address in one of the two files")
	}
	for _, o := range m.want.Listeners {
		if overlap(l.Address, o.Address) && l.Address != o.Address {
			return inUse(l, fmt.Sprintf("it overlaps with %s, which %s:%d names", o.Address, o.At.File, o.At.Line), "one of the two lines is to go: the address of all includes the other")
		}
	}
	who, hint := holder(l.Address, m.set.reg.Cgroup)
	return inUse(l, who, hint)
}

// listening are the TCP sockets that listen on a port, at an address that is
// wanted.
func listening(port uint16, wanted func(netip.Addr) bool) map[string]bool {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		scanTable(table, func(f []string) {
			if len(f) < 10 || f[3] != "0A" {
				return
			}
			host, p, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(p, 16, 16); err != nil || uint16(n) != port {
				return
			}
			if a, ok := tableAddr(host); ok && wanted(a) {
				inodes["socket:["+f[9]+"]"] = true
			}
		})
	}
	return inodes
}

// tableAddr is an address of proc_net_tcp(5): words of four bytes, each as this
// little-endian host has it in memory.
func tableAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

// Rival says who listens already where want would, on this host's network: a
// program, or the vassal called vassal. Both are empty if nobody is seen there,
// or the Emperor itself, which does not tell whose socket it keeps. Who is not
// root sees its own processes alone. all is the cgroup in which the vassals' own are;
// empty: none is known, and no program is taken for a vassal's.
func Rival(want netip.AddrPort, all string) (who, vassal string) {
	inodes := listening(want.Port(), func(a netip.Addr) bool {
		return a == want.Addr() || a.IsUnspecified() && (a.Is6() || want.Addr().Is4()) || want.Addr().IsUnspecified() && a.Is4() == want.Addr().Is4()
	})
	o := socketOwner(inodes, all)
	if o.pid == 0 || o.vassal == "" && strings.HasPrefix(o.command, "liege-") {
		return "", ""
	}
	who, _ = o.advice()
	return who, o.vassal
}

// owner is a process that has a socket open; pid 0: none is seen.
type owner struct {
	pid     int
	command string
	vassal  string // whose it is, by its cgroup
}

// advice says who it is, and what to do about it. Neither an Emperor nor a core
// is to be killed: the one has the sockets of all vassals, the other comes back.
func (o owner) advice() (who, hint string) {
	switch {
	case o.pid == 0:
		return unseen, "ss -ltnp shows who; another network namespace or container may have it"
	case o.vassal != "":
		return fmt.Sprintf("vassal %s (pid %d, %s) listens there", o.vassal, o.pid, o.command), fmt.Sprintf("liege ls; liege stop %s, or name another address", o.vassal)
	case o.pid == os.Getpid(), strings.HasPrefix(o.command, "liege-"):
		return fmt.Sprintf("pid %d (%s) listens there, for a vassal", o.pid, o.command), "liege ls says which has it; liege stop NAME, or name another address"
	case strings.HasPrefix(o.command, "uwsgi"):
		hint = "systemctl stop uwsgi uwsgi-emperor, or name another address"
	default:
		hint = fmt.Sprintf("stop it (kill %d), or name another address", o.pid)
	}
	return fmt.Sprintf("pid %d (%s) listens there", o.pid, o.command), hint
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

// socketOwner finds a process that has one of the sockets open: one of a vassal
// if there is one, for the Emperor has a vassal's sockets too.
func socketOwner(inodes map[string]bool, all string) (found owner) {
	if len(inodes) == 0 {
		return owner{}
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return owner{}
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || !hasSocket(pid, inodes) {
			continue
		}
		o := ownerOf(pid, all)
		if o.vassal != "" {
			return o
		}
		if found.pid == 0 {
			found = o
		}
	}
	return found
}

func hasSocket(pid int, inodes map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // it is gone, or not for us to see
	}
	return slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
		to, err := os.Readlink(dir + fd.Name())
		return err == nil && inodes[to]
	})
}

func ownerOf(pid int, all string) owner {
	dir := fmt.Sprintf("/proc/%d/", pid)
	comm, err := os.ReadFile(dir + "comm")
	if err != nil {
		comm = []byte("?")
	}
	groups, err := os.ReadFile(dir + "cgroup")
	if err != nil {
		groups = nil // it is gone
	}
	return owner{pid: pid, command: strings.TrimSpace(string(comm)), vassal: vassalOf(string(groups), all)}
}

// vassalOf is the vassal in whose cgroup, ALL/v-NAME, a process is that has these
// groups (proc_pid_cgroup(5)). What merely looks like one, another Emperor's in a
// container or a cgroup that somebody called so, is none.
func vassalOf(groups, all string) string {
	if all == "" {
		return ""
	}
	for line := range strings.Lines(groups) {
		_, rest, _ := strings.Cut(line, ":")
		_, at, ok := strings.Cut(strings.TrimSuffix(rest, "\n"), ":") // the path may have colons too
		below, inAll := strings.CutPrefix(at, all+"/v-")
		if !ok || !inAll {
			continue
		}
		name, _, _ := strings.Cut(below, "/")
		if _, err := vassal.ParseName(name); err == nil {
			return name
		}
	}
	return ""
}
