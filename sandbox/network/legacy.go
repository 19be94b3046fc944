package network

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iptables is one family of the rules that iptables-legacy makes, which nftables
// does not know of. Offsets are those of struct ipt_entry and ip6t_entry
// (linux/netfilter_ipv4/ip_tables.h), the same on every 64-bit machine.
type iptables struct {
	program       string
	names         string // the tables that are there: asking about another makes it
	family, level int
	target        int // offset of target_offset in an entry
}

var iptablesLegacy = []iptables{ //nolint:gochecknoglobals // a constant
	{"iptables-legacy", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.SOL_IP, 88},
	{"ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.SOL_IPV6, 140},
}

// Of linux/netfilter_ipv4/ip_tables.h and x_tables.h.
const (
	soGetInfo    = 64
	soGetEntries = 65
	nameLen      = 32              // XT_TABLE_MAXNAMELEN
	infoLen      = nameLen + 13*4  // struct ipt_getinfo
	hookEntry    = nameLen + 4     // in it: where the chains begin, one for each hook
	underflow    = nameLen + 6*4   // in it: where the policies stand, likewise
	tableSize    = nameLen + 12*4  // in it
	entriesAt    = nameLen + 4 + 4 // in struct ipt_get_entries
	verdictAt    = 32              // in struct xt_standard_target
	hookForward  = 2
	verdictDrop  = -1 // -NF_DROP - 1
)

// legacyForward names the FORWARD chains of iptables-legacy whose policy is to drop, and
// those that have rules: what rules do is not read.
func legacyForward() (drop, perhaps []string) {
	for _, t := range iptablesLegacy {
		names, err := os.ReadFile(t.names)
		if err != nil || !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		drops, ruled, err := t.forward()
		name := t.program + ", table filter, chain FORWARD"
		switch {
		case err != nil || ruled:
			perhaps = append(perhaps, name)
		case drops:
			drop = append(drop, name)
		}
	}
	return drop, perhaps
}

// forward tells whether the policy of the chain FORWARD is to drop, and whether it has
// rules.
func (t iptables) forward() (drops, ruled bool, err error) {
	fd, err := unix.Socket(t.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, false, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoLen)
	copy(info, "filter")
	if err := getsockopt(fd, t.level, soGetInfo, info); err != nil {
		return false, false, err
	}
	word := func(b []byte, at int) (int, error) {
		if at < 0 || at+4 > len(b) {
			return 0, errors.New("the kernel's table is shorter than it says")
		}
		return int(binary.NativeEndian.Uint32(b[at:])), nil
	}
	size, err := word(info, tableSize)
	if err != nil || size > 64<<20 {
		return false, false, errors.New("the kernel's table is too large")
	}
	all := make([]byte, entriesAt+size)
	copy(all, "filter")
	binary.NativeEndian.PutUint32(all[nameLen:], uint32(size))
	if err := getsockopt(fd, t.level, soGetEntries, all); err != nil {
		return false, false, err // EAGAIN: it has just changed
	}
	at, err := word(info, underflow+4*hookForward)
	if err != nil || entriesAt+at+t.target+2 > len(all) {
		return false, false, errors.New("the chain FORWARD has no policy")
	}
	entry := all[entriesAt+at:]
	verdict, err := word(entry, int(binary.NativeEndian.Uint16(entry[t.target:]))+verdictAt)
	first, err2 := word(info, hookEntry+4*hookForward)
	return int32(verdict) == verdictDrop, first != at, errors.Join(err, err2)
}

// getsockopt fills in b, whose head says what is asked.
func getsockopt(fd, level, name int, b []byte) error {
	n := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
