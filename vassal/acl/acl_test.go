package acl

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// entry is one of a list.
type entry struct {
	tag, perm uint16
	id        uint32
}

const none = ^uint32(0)

func list(more ...entry) []byte {
	out := binary.LittleEndian.AppendUint32(nil, version)
	add := func(e entry) {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	add(entry{0x01, 6, none}) // the kernel wants them in this order
	for _, e := range more {
		if e.tag == ofUser {
			add(e)
		}
	}
	add(entry{0x04, 4, none})
	for _, e := range more {
		if e.tag != ofUser {
			add(e)
		}
	}
	add(entry{0x20, 4, none})
	return out
}

func TestOthersWrite(t *testing.T) {
	mask := func(perm uint16) entry { return entry{theMask, perm, none} }
	for name, tc := range map[string]struct {
		list []byte
		want bool
	}{
		"none":                   {nil, false},
		"another user":           {list(entry{ofUser, 6, 61002}, mask(6)), true},
		"another user who reads": {list(entry{ofUser, 4, 61002}, mask(6)), false},
		"what the mask takes":    {list(entry{ofUser, 6, 61002}, mask(4)), false},
		"root":                   {list(entry{ofUser, 6, 0}, mask(6)), false},
		"the owner":              {list(entry{ofUser, 6, 61001}, mask(6)), false},
		"another group":          {list(entry{ofGroup, 6, 61002}, mask(6)), true},
		"a group of ours":        {list(entry{ofGroup, 6, 5}, mask(6)), false},
		"one of several":         {list(entry{ofUser, 4, 61002}, entry{ofUser, 6, 61003}, entry{ofGroup, 6, 5}, mask(6)), true},
	} {
		f := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if tc.list != nil {
			err := syscall.Setxattr(f, attribute, tc.list, 0)
			if errors.Is(err, syscall.EOPNOTSUPP) {
				t.Fatalf("%s has no access control lists: %v; set TMPDIR", filepath.Dir(f), err)
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if fi, err := os.Stat(f); err == nil && tc.want && fi.Mode().Perm() != 0o664 {
				t.Errorf("%s: mode %v, want the bit that is looked at", name, fi.Mode())
			}
		}
		if got := OthersWrite(f, 61001, func(gid uint32) bool { return gid == 5 }); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if !OthersWrite("/no/such", 0, func(uint32) bool { return true }) {
		t.Error("what cannot be read is trusted")
	}
}
