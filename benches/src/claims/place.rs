//! Under which claim the figures of the suite's sections are shown.

use super::said;
use crate::plan::Section;

/// The claim that `section` is shown under, by its number; none for what is beyond the claims.
const fn claim_of(section: Section) -> Option<u32> {
    match section {
        Section::Spawn | Section::ProcessSpawn => Some(2),
        Section::Ledger | Section::ProcessCopied | Section::VmCopied => Some(3),
        Section::Dormant => Some(5),
        Section::ProcessTimeline | Section::VmTimeline => Some(6),
        Section::CowFaults
        | Section::ReadFaults
        | Section::ProcessFaults
        | Section::ProcessInGuest => Some(7),
        Section::LiveFork
        | Section::Fanout
        | Section::Redis
        | Section::RedisGuest
        | Section::VmBgsave => Some(8),
        Section::HotSet | Section::WorkingSet | Section::ProcessTuning | Section::Backing => {
            Some(9)
        }
        Section::Density | Section::Cells | Section::Pressure => Some(11),
        Section::Teardown
        | Section::Reset
        | Section::SpawnRate
        | Section::Confinement
        | Section::Peers => None,
    }
}

/// The sections shown under claim `number`, in their order.
pub fn sections_of(number: u32) -> Vec<Section> {
    Section::ALL.into_iter().filter(|&section| claim_of(section) == Some(number)).collect()
}

/// The sections that belong to no claim.
pub fn sections_beyond() -> Vec<Section> {
    Section::ALL.into_iter().filter(|&section| claim_of(section).is_none()).collect()
}

/// Sections whose figures claim `number` is held against, but which are shown under another.
pub fn shown_elsewhere(number: u32) -> Vec<Section> {
    let said = said();
    let claim = said.iter().find(|said| said.section == number);
    let used = |section: &Section| {
        claim.is_some_and(|claim| claim.rows.iter().any(|row| row.from == *section))
    };
    let elsewhere = |section: &Section| claim_of(*section) != Some(number);
    Section::ALL.into_iter().filter(used).filter(elsewhere).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_shown_once() {
        let mut shown: Vec<&str> =
            (1..=11).flat_map(sections_of).chain(sections_beyond()).map(Section::name).collect();
        let mut all = Section::ALL.map(Section::name);
        shown.sort_unstable();
        all.sort_unstable();
        assert_eq!(shown, all);
    }

    #[test]
    fn a_claim_knows_whose_figures_it_uses() {
        assert_eq!(
            shown_elsewhere(1),
            [Section::Spawn, Section::Pressure, Section::ProcessSpawn, Section::ProcessTimeline]
        );
        assert_eq!(shown_elsewhere(12), []);
    }
}
