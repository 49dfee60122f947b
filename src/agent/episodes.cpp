// SPDX-License-Identifier: Apache-2.0
#include "agent/episodes.h"

#include <algorithm>

namespace lockstep::agent {

void Episodes::add(std::span<Trajectory* const> trajectories) {
  std::vector<size_t> open(num_workers_);
  for (const auto& [id, episode] : episodes_) ++open[episode.worker];
  for (const Trajectory* trajectory : trajectories) {
    const auto least = std::min_element(open.begin(), open.end());
    ++*least;
    Episode episode;
    episode.worker = static_cast<size_t>(least - open.begin());
    episodes_.insert_or_assign(trajectory->id, std::move(episode));
  }
}

std::vector<std::vector<size_t>> Episodes::by_worker(
    std::span<Trajectory* const> trajectories) const {
  std::vector<std::vector<size_t>> places(num_workers_);
  for (size_t i = 0; i < trajectories.size(); ++i)
    if (const Episode& episode = episodes_.at(trajectories[i]->id); !episode.is_lost)
      places[episode.worker].push_back(i);
  return places;
}

int Episodes::lose_all_of(size_t worker) {
  int lost = 0;
  for (auto& [id, episode] : episodes_) {
    if (episode.worker != worker || !episode.is_open) continue;
    lost += !episode.is_lost;
    episode.is_lost = true;
  }
  return lost;
}

void Episodes::take_rewards(std::span<Trajectory* const> trajectories) const {
  for (Trajectory* trajectory : trajectories)
    if (episodes_.at(trajectory->id).is_lost) trajectory->reward.reset();
}

std::string_view where_of(const Trajectory& trajectory) {
  return trajectory.row ? std::string_view(trajectory.row->where) : trajectory.id;
}

}  // namespace lockstep::agent
