package network

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// TestLegacyDrops: a policy that iptables-legacy set is seen, of either family,
// and where it has no table none is made.
func TestLegacyDrops(t *testing.T) {
	testenv.Need(t, testenv.OldTables) // without them a host has no such policy
	w := newWorld(t)
	var none, both []string
	w.In(w.Host, func() error { none, _ = legacyForward(); return nil })
	if len(none) != 0 {
		t.Errorf("without a table: %v", none)
	}
	w.In(w.Host, func() error {
		for _, ipt := range iptablesLegacy {
			if err := ipt.dropForward(); err != nil {
				return err
			}
		}
		var ruled []string
		if both, ruled = legacyForward(); len(ruled) != 0 {
			t.Errorf("chains without rules: %v have some", ruled)
		}
		return nil
	})
	want := []string{"iptables-legacy, table filter, chain FORWARD", "ip6tables-legacy, table filter, chain FORWARD"}
	if !slices.Equal(both, want) {
		t.Errorf("got %q, want %q", both, want)
	}
	w.In(w.Host, func() error {
		drop, _ := Blocked()
		for _, chain := range drop {
			if !slices.Contains(want, chain) {
				t.Errorf("%s blocks", chain)
			}
		}
		return nil
	})
}

// dropForward sets the policy, as iptables-legacy -P FORWARD DROP does: it writes
// the table whole.
func (t iptables) dropForward() error {
	fd, err := unix.Socket(t.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	info := make([]byte, infoLen)
	copy(info, "filter")
	if err := getsockopt(fd, t.level, soGetInfo, info); err != nil {
		return err
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(info[at:]) }
	size, count := word(tableSize), word(tableSize-4)
	all := make([]byte, entriesAt+int(size))
	copy(all, "filter")
	binary.NativeEndian.PutUint32(all[nameLen:], size)
	if err := getsockopt(fd, t.level, soGetEntries, all); err != nil {
		return err
	}
	entries := all[entriesAt:]
	policy := entries[word(underflow+4*hookForward):]
	drop := int32(verdictDrop)
	binary.NativeEndian.PutUint32(policy[int(binary.NativeEndian.Uint16(policy[t.target:]))+verdictAt:], uint32(drop))
	// struct ipt_replace: name, valid_hooks, num_entries, size, hook_entry,
	// underflow, num_counters, counters, entries.
	const counters = nameLen + 13*4 + 4
	r := make([]byte, counters+8, counters+8+len(entries))
	copy(r, "filter")
	put := func(at int, v uint32) { binary.NativeEndian.PutUint32(r[at:], v) }
	put(nameLen, word(nameLen))
	put(nameLen+4, count)
	put(nameLen+8, size)
	copy(r[nameLen+12:], info[nameLen+4:nameLen+44])
	put(nameLen+52, count)
	old := make([]byte, 16*count)
	binary.NativeEndian.PutUint64(r[counters:], uint64(uintptr(unsafe.Pointer(&old[0]))))
	r = append(r, entries...)
	const soSetReplace = 64
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(t.level), soSetReplace, uintptr(unsafe.Pointer(&r[0])), uintptr(len(r)), 0)
	runtime.KeepAlive(old)
	if errno != 0 {
		return errno
	}
	return nil
}
