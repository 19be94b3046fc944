// Package acl asks who else may write a file: by its POSIX access control list,
// which its mode only hints at.
//
// Where a file has one, the bits of the group in its mode are the most that any
// entry may give (acl(5)): a file of root:root with mode 0664 may be written by
// whoever the list names. So ask where that bit is set, and nowhere else.
package acl

import (
	"encoding/binary"
	"errors"
	"strconv"
	"syscall"
)

// The attribute of linux/posix_acl_xattr.h: a version, then entries.
const (
	attribute = "system.posix_acl_access"
	version   = 2
	entrySize = 8
)

// Tags of entries, and the bit of the permission.
const (
	ofUser   = 0x02
	ofGroup  = 0x08
	theMask  = 0x10
	mayWrite = 2
)

// OthersWrite reports whether the list of the file at path lets anybody write
// besides root, the owner, and the groups for which ours says true. The group of
// the file itself is not looked at: its mode says it. A list that cannot be read
// lets everybody write.
func OthersWrite(path string, owner uint32, ours func(gid uint32) bool) bool {
	list, err := read(path)
	if errors.Is(err, syscall.ENODATA) || errors.Is(err, syscall.EOPNOTSUPP) {
		return false // there is none
	}
	if err != nil || len(list) < 4 || binary.LittleEndian.Uint32(list) != version || len(list)%entrySize != 4 {
		return true
	}
	named, mask := false, true
	for list = list[4:]; len(list) > 0; list = list[entrySize:] {
		tag, id := binary.LittleEndian.Uint16(list), binary.LittleEndian.Uint32(list[4:])
		writes := binary.LittleEndian.Uint16(list[2:])&mayWrite != 0
		switch tag {
		case ofUser:
			named = named || writes && id != 0 && id != owner
		case ofGroup:
			named = named || writes && !ours(id)
		case theMask:
			mask = writes
		}
	}
	return named && mask
}

// OpenFile is the path of an open file, which may be open with O_PATH.
func OpenFile(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// read reads the attribute, whatever its size: a list has up to some thousand
// entries.
func read(path string) ([]byte, error) {
	list := make([]byte, 64<<10)
	n, err := syscall.Getxattr(path, attribute, list)
	if err != nil {
		return nil, err
	}
	return list[:n], nil
}
