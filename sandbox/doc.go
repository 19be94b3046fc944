// Package sandbox starts one process tree in its own namespaces and cgroup,
// and makes sure nothing of it is left. It is the only package that imports
// libcontainer.
//
//	func main() {
//		sandbox.Init() // first: the child that libcontainer makes ends here
//		m, err := sandbox.NewManager(sandbox.ManagerConfig{RunDir: …, Stage: …, Core: …, Log: …})
//		m.Sweep(keep)  // what a killed Emperor left
//		// listeners are opened after NewManager, so that they are guarded
//		box, err := m.Start(ctx, spec)
//		// the core says hello; then:
//		err = box.Verify()
//		<-box.Done()
//		v, _ := m.Vassal(name) // what outlives generations
//		v.Close()
//		m.Close()
//	}
//
// # One start
//
//	Emperor                                     libcontainer's init         in the sandbox
//	limits of the vassal's cgroup
//	root: tmpfs with generated files
//	Create, Start ─────────────────────────────► clone, cgroup gN, mounts
//	binds; root read-only; Created(Record) ◄──── waits (CreateRuntime)
//	                └──────────────────────────► pivot_root, masks, waits
//	log given back to its owner, the host's
//	mount of the root gone, exec.fifo ─────────► exec ─────────────────────► liege-stage
//	Failure() ◄──────────────────────────────── status channel ◄──────────── or nothing
//
// # What is where
//
// RunDir/sandbox has state/ID (libcontainer's), root/ID (only during a start)
// and v-NAME, one tmpfs per vassal with its /tmp, /var/tmp and /dev/shm. The
// cgroups are HOME/emperor and HOME/hooks on the cgroup2 tree only, and
// NODE/vassals/v-NAME/gN in every hierarchy. HOME is the Emperor's own cgroup
// if systemd delegated it and it is alone in it, else /liege-XXXXXXXX. NODE is
// ManagerConfig.Cgroup, or HOME.
//
// # What it promises
//
// When Start fails, or Done is closed, no process, mount, cgroup or state file
// of that generation exists. Every mount inside is nosuid and, but for /dev,
// nodev. Nothing of the host is writable inside but binds that say so.
// A process that the kernel cannot kill keeps Done open; see Processes.
// It does not promise privileges dropped: that is the stage's work, and Verify
// looks at it from outside.
//
// # Known limits
//
// On v2 libcontainer enables every controller in every cgroup from the root
// down to the sandbox, as runc does, in systemd's part of the tree too. Below a
// unit with Delegate=yes systemd has done so itself for the controllers it
// manages; seen with systemd 252, only hugetlb, rdma and misc are new. On pure
// v1 there is no guard, so an inet listener cannot go into a private network.
// Sockets that were made before NewManager, or by systemd, are not guarded.
// A limit that falls back after an overlap and is below what is in use stays
// raised on v1 until the next start; on v2 the kernel reclaims.
package sandbox
