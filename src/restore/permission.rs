//! How far a peer may go here: its entry in the trust file, held against what it wants, in preflight and again when the
//! state has arrived, since nothing obliges it to send what it described.
//!
//! A peer whose processes may run as root may do everything anyway: nothing more is asked of it than what its entry
//! says. For all others files are opened, ports bound and directories entered with the rights of the process's user.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

use super::RestoreError;
use crate::image::files::{AtPath, FilesImage, OpenFile, PeerCredentials};
use crate::image::process::{Credentials, ProcessImage};
use crate::image::{Backing, FilePath, Note, Obstacle};
use crate::state::process::{self, limits::ResourceLimits};
use crate::state::seam::State as _;
use crate::state::thread;
use crate::sys::process::prlimit;
use crate::sys::rights::Rights;
use crate::transport::permit::{Day, Permit, Users};
use crate::transport::user::User;
use crate::transport::{Fingerprint, TrustStore};

/// What one peer may do.
#[derive(Debug, Clone)]
pub struct Authority {
    /// Its key.
    pub peer: Fingerprint,
    /// What its entry says.
    pub permit: Permit,
    trust: TrustStore,
}

const CPU: usize = 0;
const AS: usize = 9;

impl Authority {
    /// What the peer may do now.
    pub fn of(trust: &TrustStore, peer: Fingerprint) -> Result<Self, RestoreError> {
        let permit = read(trust, &peer)?;
        Ok(Self { peer, permit, trust: trust.clone() })
    }

    /// What whoever runs this program may do with its own: nothing is asked beyond what the kernel asks.
    pub fn own(home: &Path) -> Self {
        Self { peer: Fingerprint([0; 32]), permit: Permit::default(), trust: TrustStore::new(home) }
    }

    /// Its entry must be what it was: the last question before a process is let go.
    pub fn still_holds(&self) -> Result<(), RestoreError> {
        if read(&self.trust, &self.peer)? == self.permit {
            return Ok(());
        }
        Err(self.refused("its entry was changed while the process was on its way"))
    }

    fn refused(&self, what: &str) -> RestoreError {
        let text = format!("{} may not do this here: {what}", self.peer);
        tracing::warn!(fingerprint = %self.peer, "refused: {what}");
        RestoreError::NotPermitted(text)
    }

    /// What of the state goes too far.
    pub fn check(&self, image: &ProcessImage, open: &FilesImage) -> Result<(), RestoreError> {
        match self.obstacles(image, open)?.first() {
            None => Ok(()),
            Some(first) => Err(self.refused(&first.to_string())),
        }
    }

    /// Everything about the process, and what its tree has open, that goes too far.
    pub fn obstacles(&self, image: &ProcessImage, open: &FilesImage) -> Result<Vec<Obstacle>, RestoreError> {
        let mut found = Found { peer: self.peer, all: Vec::new() };
        self.users(image, &mut found);
        let (memory, mapped) = sizes(image);
        let limits = [
            ("memory", "it brings", memory, self.permit.memory, "--max-memory"),
            ("address space", "it has mapped", mapped, self.permit.address_space, "--max-address-space"),
        ];
        for (what, has, size, limit, option) in limits {
            if let Some(most) = limit.filter(|most| size > *most) {
                found.add(what, format!("{has} {size} bytes, allowed are {most}"), option);
            }
        }
        if !self.permit.is_root() {
            self.powers(image, &mut found)?;
        }
        if !self.permit.paths.is_empty() {
            // links are followed with the user's own eyes
            let paths = image_paths(image, open)?;
            let look = || paths.into_iter().filter(|path| !self.is_below(path)).collect();
            let outside: Vec<FilePath> = match self.rights(image) {
                Some(rights) => rights.with(look).unwrap_or_else(|_| vec!["its files".into()]),
                None => look(),
            };
            for path in outside {
                found.add(
                    &path.to_string(),
                    format!("it is outside of {}", self.permit.paths.join(":")),
                    "--paths",
                );
            }
        }
        for obstacle in &found.all {
            tracing::warn!(fingerprint = %self.peer, pid = image.pid, "refused: {obstacle}");
        }
        Ok(found.all)
    }

    /// Makes the users of the peer those that they are here. Before anything else is asked about the process.
    pub fn map_users(&self, image: &mut ProcessImage, open: &mut FilesImage) -> Result<(), Obstacle> {
        let was = image.threads.first().map(|leader| leader.creds.clone()).unwrap_or_default();
        let mut users: Vec<(u32, u32, u32)> = Vec::new();
        for thread in &mut image.threads {
            let came_as = thread.creds.uids;
            for uid in &mut thread.creds.uids {
                if let Some(to) = self.permit.map_users.of(*uid) {
                    *uid = number(to).ok_or_else(|| self.no_such_user(*uid, to))?;
                }
            }
            let (was, is) = (came_as[1], thread.creds.uids[1]);
            if was == is {
                continue;
            }
            let login = Login::of(is);
            users.push((was, is, login.group));
            thread.creds.gids = [login.group; 4];
            thread.creds.groups = login.groups;
            if was == 0 {
                // as when root becomes another user; what it may ever have (the bounding set) stays
                [0, 1, 2, 4].iter().for_each(|set| thread.creds.caps[*set] = 0);
            }
        }
        self.map_sockets(image, open, &was);
        // what belonged to that user belongs to the other here
        let pipes = open.pipes.iter_mut().map(|pipe| &mut pipe.inode);
        let memfds = open.memfds.iter_mut().map(|memfd| &mut memfd.inode);
        let objects = image.memory.layout.objects.iter_mut().filter_map(|object| object.inode.as_mut());
        for inode in pipes.chain(memfds).chain(objects) {
            if let Some((_, uid, gid)) = users.iter().find(|(was, ..)| *was == inode.uid) {
                (inode.uid, inode.gid) = (*uid, *gid);
            }
        }
        Ok(())
    }

    /// As whom sockets were made, and whose they are. What the process itself is becomes what it is here; a peer whose processes
    /// may not be anybody makes them as the process itself ([`Authority::foreign_sockets`] says so).
    fn map_sockets(&self, image: &ProcessImage, open: &mut FilesImage, was: &Credentials) {
        let Some(now) = image.threads.first().map(|leader| leader.creds.clone()) else { return };
        let own = |of: &Credentials| PeerCredentials {
            uid: of.uids[1],
            gid: of.gids[1],
            groups: of.groups.clone(),
        };
        let (was, now) = (own(was), own(&now));
        for file in &mut open.files {
            if let Some(node) = file.node.as_mut().filter(|node| (node.uid, node.gid) == (was.uid, was.gid)) {
                (node.uid, node.gid) = (now.uid, now.gid);
            }
            let Some(socket) = file.kind.unix_mut() else { continue };
            let Some(credentials) = &mut socket.credentials else { continue };
            if *credentials == was || self.may_not_choose() {
                *credentials = now.clone();
            }
        }
    }

    /// Its processes are not anybody they like.
    fn may_not_choose(&self) -> bool {
        !self.permit.is_root() || !self.permit.map_users.is_empty()
    }

    /// Sockets of which `SO_PEERCRED` will say somebody else; before the users are mapped.
    pub fn foreign_sockets(&self, image: &ProcessImage, open: &FilesImage) -> Vec<Note> {
        let Some(own) = image.threads.first().map(|leader| &leader.creds) else { return Vec::new() };
        let is_foreign = |file: &&OpenFile| {
            let made = file.kind.unix().and_then(|socket| socket.credentials.as_ref());
            made.is_some_and(|made| {
                (made.uid, made.gid, &made.groups) != (own.uids[1], own.gids[1], &own.groups)
            })
        };
        let foreign = open.files.iter().filter(|_| self.may_not_choose()).filter(is_foreign);
        let what = "SO_PEERCRED says another user than the process; at the target it says the process's own";
        foreign.map(|file| Note::new(file.object(), what)).collect()
    }

    fn no_such_user(&self, uid: u32, to: &User) -> Obstacle {
        Obstacle::new(
            format!("user {uid}"),
            format!("it would run as {to} at the target, and there is no such user there"),
            format!("at the target: ulpm trust add {} --map-user {uid}=…", self.peer),
        )
    }

    /// So much memory has come so far.
    pub fn weigh(&self, bytes: u64) -> Result<(), RestoreError> {
        match self.permit.memory.filter(|most| bytes > *most) {
            None => Ok(()),
            Some(most) => Err(self.refused(&format!("it brings more than {most} bytes of memory"))),
        }
    }

    fn users(&self, image: &ProcessImage, found: &mut Found) {
        if self.permit.is_root() {
            return;
        }
        let mut asked: BTreeSet<u32> = BTreeSet::new();
        let mut capable = Vec::new();
        for thread in &image.threads {
            let creds = &thread.creds;
            for uid in creds.uids {
                if asked.insert(uid) && !self.may_be(uid) {
                    found.add(
                        &format!("user {}", name(uid)),
                        "its processes may not run as that user here".into(),
                        &self.with_user(uid),
                    );
                }
            }
            if let Some(group) = foreign_group(creds) {
                let user = name(creds.uids[1]);
                found.add(
                    &format!("group {group}"),
                    format!("user {user} is not in it on this host"),
                    "--users any",
                );
            }
            if [0, 1, 2, 4].iter().any(|set| creds.caps[*set] != 0) {
                capable.push(thread.tid);
            }
        }
        if let Some(first) = capable.first() {
            let why = match capable.len() {
                1 => format!("thread {first} has some"),
                many => format!("{many} threads have some, thread {first} and others"),
            };
            found.add("capabilities", why, "--users any");
        }
    }

    /// What lets it run as that user, too.
    fn with_user(&self, uid: u32) -> String {
        match &self.permit.users {
            Users::These(users) if uid != 0 => {
                let all: Vec<String> = users.iter().map(ToString::to_string).collect();
                format!("--users {},{uid}", all.join(","))
            }
            _ => "--users any".to_owned(),
        }
    }

    fn may_be(&self, uid: u32) -> bool {
        match &self.permit.users {
            Users::Any => true,
            Users::Ordinary => uid != 0,
            Users::These(users) => users.iter().any(|user| match user {
                User::Ids(from, to) => (*from..=*to).contains(&uid),
                name @ User::Name(_) => number(name) == Some(uid),
            }),
        }
    }

    /// What only root could have given it, or could give it here.
    fn powers(&self, image: &ProcessImage, found: &mut Found) -> Result<(), RestoreError> {
        const ANY: &str = "--users any";
        for thread in &image.threads {
            for why in thread::powers(thread)? {
                found.add(&format!("thread {}", thread.tid), why, ANY);
            }
        }
        for (object, why) in process::powers(&image.states)? {
            found.add(object, why, ANY);
        }
        let lowest = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").unwrap_or_default();
        let lowest = lowest.trim().parse::<u64>().unwrap_or(65536);
        if image.memory.layout.vmas.first().is_some_and(|vma| vma.start < lowest) {
            found.add("memory", format!("it has some below {lowest:#x}"), ANY);
        }
        Ok(())
    }

    /// With whose rights its files are opened; `None`: with ours.
    pub fn rights(&self, image: &ProcessImage) -> Option<Rights> {
        let creds = &image.threads.first()?.creds;
        let mapped = !self.permit.map_users.is_empty() && creds.uids[1] != 0;
        ((!self.permit.is_root() || mapped) && Uid::effective().is_root()).then(|| Rights {
            uid: creds.uids[1],
            gid: creds.gids[1],
            groups: creds.groups.clone(),
        })
    }

    /// Takes from the image what root could give and the peer may not ask for.
    pub fn bound(&self, image: &mut ProcessImage) -> Result<(), RestoreError> {
        let own = std::process::id() as i32;
        let mut limits = ResourceLimits::of(&image.states)?;
        for (r, limit) in limits.0.iter_mut().enumerate() {
            let mut most = u64::MAX;
            if !self.permit.is_root()
                && let Ok((_, hard)) = prlimit(own, r as u32, None)
            {
                most = hard;
            }
            if r == AS {
                most = most.min(self.permit.address_space.unwrap_or(u64::MAX));
            }
            if r == CPU {
                most = most.min(self.permit.cpu_time.unwrap_or(u64::MAX));
            }
            *limit = (limit.0.min(most), limit.1.min(most));
        }
        Ok(limits.store(&mut image.states)?)
    }

    /// Mapped files that came later: they must lie where its files may lie.
    pub fn check_paths<'a>(&self, paths: impl Iterator<Item = &'a FilePath>) -> Result<(), RestoreError> {
        if self.permit.paths.is_empty() {
            return Ok(());
        }
        let outside = paths.into_iter().find(|path| !self.is_below(path));
        outside.map_or(Ok(()), |path| {
            Err(self.refused(&format!("{path} is outside of {}", self.permit.paths.join(":"))))
        })
    }

    /// Links and `..` are followed: where it really is counts.
    fn is_below(&self, path: &FilePath) -> bool {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from("/"));
        let at = real(path.as_path());
        self.permit.paths.iter().any(|dir| at.starts_with(real(Path::new(dir))) && at != Path::new("/"))
            || self.permit.paths.iter().any(|dir| dir == "/")
    }
}

struct Found {
    peer: Fingerprint,
    all: Vec<Obstacle>,
}

impl Found {
    fn add(&mut self, object: &str, why: String, option: &str) {
        let value = if option.contains(' ') { "" } else { " …" };
        let advice = format!("at the target: ulpm trust add {} {option}{value}", self.peer);
        self.all.push(Obstacle::new(object, why, advice));
    }
}

fn read(trust: &TrustStore, peer: &Fingerprint) -> Result<Permit, RestoreError> {
    let no = |why: String| RestoreError::NotPermitted(format!("{peer} may not send processes here: {why}"));
    let permit = trust.permit(peer).map_err(|e| no(crate::sys::chain(&e)))?;
    let permit = permit.ok_or_else(|| no("it is not trusted any more".to_owned()))?;
    permit.admits(true, Day::today()).map_err(|why| no(why.to_string()))?;
    Ok(permit)
}

/// Bytes that come along, and bytes that are mapped.
fn sizes(image: &ProcessImage) -> (u64, u64) {
    let memory = &image.memory;
    let huge = memory.huge_pages.iter().map(|h| h.page_size.saturating_mul(h.count));
    let total = huge.fold(memory.resident, u64::saturating_add);
    (total, memory.layout.vmas.iter().map(|vma| vma.range().len()).fold(0, u64::saturating_add))
}

/// All paths by which the process reaches files.
fn image_paths(image: &ProcessImage, open: &FilesImage) -> Result<BTreeSet<FilePath>, RestoreError> {
    let open = open.files.iter().filter_map(|file| match file.kind.at_path() {
        Some((AtPath::File | AtPath::Directory | AtPath::Place, path)) => Some(path),
        // /dev/null and its like, nothing else can be made
        Some((AtPath::Device, _)) | None => None,
    });
    let mapped = image.memory.layout.vmas.iter().filter_map(|vma| match &vma.backing {
        Backing::File { path } => Some(path),
        _ => None,
    });
    // everybody may be at the top
    let mut states = process::paths(&image.states)?;
    for thread in &image.threads {
        states.extend(thread::paths(thread)?);
    }
    let others = states.iter().map(|(_, path)| path).chain([&image.memory.exe]);
    let others = others.filter(|path| !path.is_root());
    let files = image.memory.files.iter().map(|(path, _)| path);
    Ok(open.chain(mapped).chain(files).chain(others).cloned().collect())
}

/// A group that a login of that user would not have on this host.
fn foreign_group(creds: &Credentials) -> Option<u32> {
    let login = Login::of(creds.uids[1]);
    let own = |group: &u32| *group == login.group || login.groups.contains(group);
    creds.gids.iter().chain(&creds.groups).copied().find(|group| !own(group))
}

/// The groups that a login of a user has on this host.
struct Login {
    group: u32,
    groups: Vec<u32>,
}

impl Login {
    fn of(uid: u32) -> Self {
        let known = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let Some(user) = known else { return Self { group: uid, groups: Vec::new() } };
        let group = user.gid.as_raw();
        let groups = CString::new(user.name)
            .ok()
            .and_then(|name| nix::unistd::getgrouplist(&name, user.gid).ok())
            .map_or_else(|| vec![group], |groups| groups.into_iter().map(Gid::as_raw).collect());
        Self { group, groups }
    }
}

fn number(user: &User) -> Option<u32> {
    match user {
        User::Ids(first, _) => Some(*first),
        User::Name(name) => nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
    }
}

fn name(uid: u32) -> String {
    let known = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| uid.to_string(), |user| user.name)
}
