package vm

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

//go:embed image
var imageFiles embed.FS

// An Image says what a system has beside the base.
type Image struct {
	Debs    []string // packages, installed in order
	Modules []Module // SELinux modules, installed at once after the packages
	// Setup changes the tree below root, after the packages and before files
	// are labelled.
	Setup func(ctx context.Context, root string) error
}

// A Module is one module of the SELinux policy.
type Module struct {
	CIL      string // file
	Contexts string // file with its file contexts, or empty
}

// A System is what Machine boots.
type System struct{ Kernel, Initrd, Disk string }

// silent are units that would only cost time, or take the console.
var silent = []string{
	"serial-getty@ttyS0.service", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer",
	"e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer", "systemd-firstboot.service", "systemd-binfmt.service", "systemd-logind.service",
}

// Build makes a system from base: a copy with what the image asks for, every
// file labelled, as a disk in the work directory. One that was made before of
// the same things, by the same program, is taken from the cache.
func (w *Work) Build(ctx context.Context, base string, image Image) (System, error) {
	s := System{Disk: filepath.Join(w.Dir, "disk.img")}
	var err error
	if s.Kernel, err = only(filepath.Join(base, "boot/vmlinuz-*")); err != nil {
		return s, err
	}
	if s.Initrd, err = only(filepath.Join(base, "boot/initrd.img-*")); err != nil {
		return s, err
	}
	key, err := image.key(base)
	if err != nil {
		return s, err
	}
	kept := filepath.Join(w.cache, "system-"+key)
	lock, err := lockFile(w.cache, unix.LOCK_EX)
	if err != nil {
		return s, err
	}
	defer lock.Close()
	// A link of its own: what is removed from the cache is still there for us.
	if err := os.Link(kept, s.Disk); !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	if err := w.makeDisk(ctx, base, image, s.Disk); err != nil {
		return s, err
	}
	old, err := filepath.Glob(filepath.Join(w.cache, "system-*"))
	if err != nil {
		return s, err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return s, err
		}
	}
	return s, os.Link(s.Disk, kept)
}

func (w *Work) makeDisk(ctx context.Context, base string, image Image, disk string) error {
	root := filepath.Join(w.Dir, "root")
	if err := run(ctx, "cp", "--archive", "--reflink=auto", base, root); err != nil {
		return err
	}
	if err := prepare(root); err != nil {
		return err
	}
	if err := image.install(ctx, root); err != nil {
		return err
	}
	contexts := filepath.Join(root, "etc/selinux/default/contexts/files/file_contexts")
	if err := run(ctx, "setfiles", "-r", root, "-F", contexts, root); err != nil {
		return err
	}
	part := disk + ".part"
	if err := run(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, part, "2G"); err != nil {
		return err
	}
	return errors.Join(os.Rename(part, disk), os.RemoveAll(root))
}

// key is a sum over all that the system is made of, this program included: it
// has the code that makes it.
func (i Image) key(base string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	files := append([]string{self}, i.Debs...)
	for _, m := range i.Modules {
		files = append(files, m.CIL)
		if m.Contexts != "" {
			files = append(files, m.Contexts)
		}
	}
	sum := sha256.New()
	fmt.Fprintln(sum, base)
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, filepath.Base(name), len(data))
		sum.Write(data)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:6]), nil
}

func only(pattern string) (string, error) {
	m, err := filepath.Glob(pattern)
	if err != nil || len(m) != 1 {
		return "", fmt.Errorf("%s: %d files; want one", pattern, len(m))
	}
	return m[0], nil
}

// prepare makes an unpacked system one that boots to our unit.
func prepare(root string) error {
	etc := filepath.Join(root, "etc")
	units := filepath.Join(etc, "systemd/system")
	for _, f := range []struct{ from, to string }{
		{"image/liege-vm.service", units + "/liege-vm.service"}, {"image/liege-vm.sh", root + "/usr/local/sbin/liege-vm"},
	} {
		text, err := imageFiles.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.to, text, 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"fstab": "/dev/vda / ext4 rw,noatime 0 0\n", "hostname": "guest\n", "hosts": "127.0.0.1 localhost guest\n",
		"selinux/config": "SELINUX=enforcing\nSELINUXTYPE=default\n",
		// Of system calls nobody is told, which makes them faster; of denials
		// all are.
		"audit/rules.d/liege-vm.rules": "-a never,task\n", filepath.Base(testenv.GuestMark): "",
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, unit := range silent {
		if err := os.Symlink("/dev/null", filepath.Join(units, unit)); err != nil {
			return err
		}
	}
	wants := filepath.Join(units, "multi-user.target.wants")
	return errors.Join(os.MkdirAll(wants, 0o755), os.Symlink("../liege-vm.service", filepath.Join(wants, "liege-vm.service")))
}

func (i Image) install(ctx context.Context, root string) error {
	var debs, modules []string
	for _, deb := range i.Debs {
		if err := run(ctx, "cp", deb, filepath.Join(root, "root")); err != nil {
			return err
		}
		debs = append(debs, "/root/"+filepath.Base(deb))
	}
	if len(debs) > 0 {
		if err := InRoot(ctx, root, append([]string{"dpkg", "--force-unsafe-io", "--install"}, debs...)...); err != nil {
			return err
		}
	}
	for _, m := range i.Modules {
		if err := run(ctx, "cp", m.CIL, filepath.Join(root, "root")); err != nil {
			return err
		}
		modules = append(modules, "--install=/root/"+filepath.Base(m.CIL))
		if err := addContexts(root, m.Contexts); err != nil {
			return err
		}
	}
	if len(modules) > 0 {
		// The kernel here has another policy or none: -N.
		if err := InRoot(ctx, root, append([]string{"semodule", "-N"}, modules...)...); err != nil {
			return err
		}
	}
	if i.Setup == nil {
		return nil
	}
	return i.Setup(ctx, root)
}

// InRoot runs a command in a system's tree. What it starts does not outlive it.
func InRoot(ctx context.Context, root string, args ...string) error {
	return runApart(ctx, "chroot", append([]string{root}, args...)...)
}

func addContexts(root, from string) error {
	if from == "" {
		return nil
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(root, "etc/selinux/default/contexts/files/file_contexts.local"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.TrimRight(string(text), "\n") + "\n")
	return errors.Join(err, f.Close())
}

// payloadLabel lets root's services execute what the second disk holds.
const payloadLabel = "system_u:object_r:bin_t:s0\x00"

// payload makes a disk of dir, which must hold an executable run.sh.
func payload(ctx context.Context, dir, disk string) error {
	var size int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		return unix.Lsetxattr(path, "security.selinux", []byte(payloadLabel), 0)
	})
	if err != nil {
		return err
	}
	return run(ctx, "mke2fs", "-q", "-t", "ext4", "-d", dir, disk, fmt.Sprintf("%dM", 64+size>>20*5/4))
}
