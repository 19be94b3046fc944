package quota

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/fs.h: what chattr -p and +P do.
const (
	fsIocGetXAttr = 0x801c581f
	fsIocSetXAttr = 0x401c5820
	projInherit   = 0x200 // FS_XFLAG_PROJINHERIT: what is made in the directory gets its project
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	flags, extSize, extents, project, cowExtSize uint32
	_                                            [8]byte
}

// attrOf asks for the attributes of an open file or directory. The number of a
// request is cut to 32 bits by the kernel.
func attrOf(fd int) (fsxattr, error) {
	var a fsxattr
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocGetXAttr, uintptr(unsafe.Pointer(&a))); errno != 0 {
		return a, errno
	}
	return a, nil
}

func (a fsxattr) set(fd int) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocSetXAttr, uintptr(unsafe.Pointer(&a))); errno != 0 {
		return errno
	}
	return nil
}

// Of linux/dqblk_xfs.h, which every file system with quotas answers.
const (
	getQuota  = 'X'<<8 + 3 // Q_XGETQUOTA
	setLimits = 'X'<<8 + 4 // Q_XSETQLIM
	getState  = 'X'<<8 + 5 // Q_XGETQSTAT

	projectQuota = 2 // PRJQUOTA

	projectCounted = 1 << 4 // FS_QUOTA_PDQ_ACCT
	projectBounded = 1 << 5 // FS_QUOTA_PDQ_ENFD

	block = 512 // d_blk_hardlimit and d_bcount are counted in basic blocks
)

// diskQuota is struct fs_disk_quota.
type diskQuota struct {
	version, flags   int8
	fields           uint16
	id               uint32
	blkHard, blkSoft uint64
	inoHard, inoSoft uint64
	blocks, inodes   uint64
	_                [16]byte // timers and warnings
	_                [24]byte // the real-time device's
	_                [8]byte
	_                [8]byte
}

const (
	quotaVersion = 1
	ofProject    = 2                         // FS_PROJ_QUOTA
	hardAndSoft  = 1<<0 | 1<<1 | 1<<2 | 1<<3 // FS_DQ_ISOFT, IHARD, BSOFT, BHARD
)

// quotaState is the beginning of struct fs_quota_stat, with room for the rest.
type quotaState struct {
	version int8
	flags   uint16
	_       [124]byte
}

// quotactl works on the file system on which fd lies; Linux 5.14.
func quotactl(fd, command int, id uint32, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(command<<8|projectQuota), uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// usage is what the kernel counted for a project, and its limits. A project
// that never had a file has no quota, and used nothing.
func usage(fd int, id uint32) (Usage, error) {
	var q diskQuota
	err := quotactl(fd, getQuota, id, unsafe.Pointer(&q))
	if errors.Is(err, unix.ENOENT) {
		return Usage{}, nil
	}
	return Usage{Bytes: int64(q.blocks) * block, Inodes: int64(q.inodes), Limit: Limit{Bytes: int64(q.blkHard) * block, Inodes: int64(q.inoHard)}}, err
}

// bound puts l in force, and asks whether it is: the hard limit, so that there
// is no time of grace.
func bound(fd int, id uint32, l Limit) error {
	blocks := uint64(l.Bytes+block-1) / block
	q := diskQuota{version: quotaVersion, flags: ofProject, fields: hardAndSoft, id: id,
		blkHard: blocks, inoHard: uint64(l.Inodes)}
	if err := quotactl(fd, setLimits, id, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("set the quota of project %d: %w", id, err)
	}
	u, err := usage(fd, id)
	if err != nil {
		return fmt.Errorf("read the quota of project %d: %w", id, err)
	}
	if u.Limit.Bytes < l.Bytes || u.Limit.Inodes != l.Inodes || u.Limit.Bytes > 0 && l.Bytes == 0 {
		return fmt.Errorf("the quota of project %d is %d bytes and %d files, not the %d and %d that were set", id, u.Limit.Bytes, u.Limit.Inodes, l.Bytes, l.Inodes)
	}
	return nil
}

// enforced returns nil if the file system on which fd lies bounds projects,
// else a *Missing.
func enforced(fd int) error {
	var s quotaState
	err := quotactl(fd, getState, 0, unsafe.Pointer(&s))
	switch {
	case err == nil && s.flags&projectBounded != 0:
		return nil
	case errors.Is(err, unix.ENOSYS) && errors.Is(quotactl(-1, getState, 0, unsafe.Pointer(&s)), unix.ENOSYS):
		return &Missing{Why: "this kernel has no quotactl_fd (Linux 5.14)"}
	}
	return missing(fd, err == nil && s.flags&projectCounted != 0)
}

// missing says what the file system lacks, and what brings it.
func missing(fd int, counted bool) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		m := &Missing{Why: "its ext4 is mounted without project quotas", Hint: "with it unmounted: tune2fs -O project,quota -Q prjquota DEVICE; then mount it with the option prjquota"}
		if counted {
			m.Hint = "mount it with the option prjquota"
		}
		return m
	case unix.XFS_SUPER_MAGIC:
		return &Missing{Why: "its xfs is mounted without project quotas", Hint: "mount it with the option prjquota; the root file system: rootflags=prjquota on the kernel's command line"}
	}
	return &Missing{Why: "its file system has no project quotas", Hint: "ext4 or xfs, mounted with the option prjquota"}
}
