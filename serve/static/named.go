package static

import (
	"io/fs"
	"path"
	"strings"

	"liege/serve/beneath"
	"liege/serve/exchange"
)

// File answers r with the file that name, an absolute path, leads to: for
// routing rules (static:, sendfile:) and for an application that names a file
// instead of sending it (X-Sendfile). A name that came from anywhere but the
// configuration may ask for anything, so the file must lie beneath a directory
// that is served, that static-safe names, or that is one of also: what a rule
// says literally before its first variable. Symbolic links are held to the
// same directories as those of a URL, and the names that are never served
// (secret) are not served here either; other names with a dot are.
//
// Range, If-Modified-Since and the like are answered as for a URL when the
// method is GET or HEAD. An error that is fs.ErrNotExist or fs.ErrPermission
// says that there is no such file or that it may not be sent: then nothing has
// been written. A directory is no file: no index is looked for.
func (h *Handler) File(r *exchange.Request, w exchange.Response, name string, also ...*beneath.Root) error {
	f, err := h.named(name, also)
	if err != nil {
		return err
	}
	r.Info.Backend = "static"
	return h.send(r, w, &f)
}

// Open opens a file as File does and leaves what to send of it to the caller,
// who closes it.
func (h *Handler) Open(name string, also ...*beneath.Root) (f *File, size int64, err error) {
	o, err := h.named(name, also)
	if err != nil {
		return nil, 0, err
	}
	return o.File, o.size, nil
}

// Type is the media type of a file by its name; empty if it is not known.
func (h *Handler) Type(name string) string { return h.types.of(name) }

// named opens the regular file at name beneath one of the directories.
func (h *Handler) named(name string, also []*beneath.Root) (found, error) {
	if !path.IsAbs(name) || strings.IndexByte(name, 0) >= 0 {
		return found{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	why := fs.ErrPermission
	for _, roots := range [...][]*beneath.Root{also, h.safe} {
		for _, root := range roots {
			f, holds, err := h.namedIn(root, name)
			if err = known(err); err != nil {
				return found{}, exchange.Unavailable(err)
			}
			if f.File != nil {
				return f, nil
			}
			if holds {
				why = fs.ErrNotExist
			}
		}
	}
	return found{}, &fs.PathError{Op: "open", Path: name, Err: why}
}

// namedIn opens the regular file at name if root holds the name.
func (h *Handler) namedIn(root *beneath.Root, name string) (f found, holds bool, err error) {
	rest, ok, err := root.Holds(name)
	if !ok {
		return found{}, false, err
	}
	if rest, ok = relative(rest, true); !ok {
		return found{}, false, nil
	}
	dir, err := root.Open()
	if err != nil {
		return found{}, true, err
	}
	f, err = h.beneath(dir, rest)
	if f.File != nil && (f.isDir || f.whole && rest != ".") {
		f.Close()
		return found{}, true, nil
	}
	return f, true, err
}

// Root is a directory or file that a rule names: see File.
type Root = beneath.Root

// NewRoot returns the Root at path, which need not exist yet.
func NewRoot(path string) *Root { return beneath.New(path) }
