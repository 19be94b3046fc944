package vm

import (
	"bytes"
	"fmt"
	"os"
)

// A File is one of an initramfs.
type File struct {
	Name string // "init", "bin/x": directories on the way must come before
	From string // a file here, executable there; empty: a directory
}

// Initramfs writes an archive of files as the kernel unpacks it at boot
// (Documentation/driver-api/early-userspace/buffer-format.rst, "newc").
func Initramfs(to string, files []File) error {
	var out bytes.Buffer
	for i, f := range append(files, File{Name: "TRAILER!!!"}) {
		mode, data := uint32(0o040755), []byte(nil)
		if f.From != "" {
			var err error
			if data, err = os.ReadFile(f.From); err != nil {
				return err
			}
			mode = 0o100755
		}
		// magic ino mode uid gid nlink mtime size dev(2) rdev(2) namesize check
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(f.Name)+1, 0, f.Name)
		pad(&out)
		out.Write(data)
		pad(&out)
	}
	return os.WriteFile(to, out.Bytes(), 0o644)
}

func pad(out *bytes.Buffer) { out.Write(make([]byte, (4-out.Len()%4)%4)) }
