package expand

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"liege/emperor/asuser"
	"liege/vassal/inifile"
)

// tenantHost answers what a tenant's ini text asks, from its part of the host. Host,
// the machine's own, answers what is no secret: its name, its CPUs, the time.
type tenantHost struct {
	inifile.Host
	part asuser.Part
	who  asuser.Who
	name string
	dir  string // of the vassal's file
}

var errOutside = errors.New("a file of a user may read only below its own directory, and what belongs to that user")

// ReadFile implements inifile.Host. Nothing that a tenant's child says makes a
// file the operator's.
func (h *tenantHost) ReadFile(path string) (inifile.HostFile, error) {
	if err := mayRead(path); err != nil {
		return inifile.HostFile{}, err
	}
	b, info, err := h.part.ReadFile(path, inifile.MaxFile)
	if errors.Is(err, fs.ErrNotExist) && !within(path, h.dir) { // whether it is there is not told
		err = &fs.PathError{Op: "read", Path: path, Err: errOutside}
	}
	if err != nil {
		return inifile.HostFile{}, err
	}
	file := inifile.HostFile{Data: b}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.Inode = st.Ino
	}
	return file, nil
}

// Stat implements inifile.Host.
func (h *tenantHost) Stat(path string) (fs.FileInfo, error) {
	if err := mayRead(path); err != nil {
		return nil, err
	}
	return h.part.Stat(path)
}

// Glob implements inifile.Host.
func (h *tenantHost) Glob(pattern string) ([]string, error) {
	if err := mayRead(pattern); err != nil {
		return nil, err
	}
	names, err := h.part.Glob(pattern)
	if err != nil {
		return nil, err
	}
	for i, n := range names {
		if fi, err := h.part.Stat(n); err == nil && fi.IsDir() {
			names[i] = n + "/"
		}
	}
	return names, nil
}

// Getenv implements inifile.Host: a tenant sees no environment.
func (h *tenantHost) Getenv(string) (string, bool) { return "", false }

// User implements inifile.Host.
func (h *tenantHost) User() (uid int, name string, gid int, group string) {
	return h.who.UID, h.name, h.who.GID, strconv.Itoa(h.who.GID)
}

// mayRead says why of paths that are the kernel's by their names. What they lead to
// the child looks at.
func mayRead(path string) error {
	p := filepath.Clean(path)
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if within(p, dir) {
			return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("%s is not for vassal files: %w", dir, errOutside)}
		}
	}
	return nil
}

func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(filepath.Clean(p), dir+"/")
}

// tenantFS answers what resolve asks of the file system for a tenant's file.
type tenantFS struct{ s *asuser.Session }

const maxSmallFile = 64 << 10

// Lstat implements resolve.FS, and so do the methods below.
func (f tenantFS) Lstat(p string) (fs.FileInfo, error) { return f.s.Lstat(p) }
func (f tenantFS) Readlink(p string) (string, error)   { return f.s.Readlink(p) }
func (f tenantFS) ReadFile(p string) ([]byte, error) {
	b, _, err := f.s.ReadFile(p, maxSmallFile)
	return b, err
}

// List implements resolve.Lister.
func (f tenantFS) List(dir string, max int) []string {
	if strings.ContainsAny(dir, `*?[\`) {
		return nil
	}
	found, err := f.s.Glob(dir + "/*")
	if err != nil {
		return nil
	}
	var names []string
	for _, p := range found[:min(len(found), max)] {
		names = append(names, filepath.Base(p))
	}
	return names
}
